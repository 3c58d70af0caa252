"""Around every request: who is let in, how long, how large, and what is sent again."""
