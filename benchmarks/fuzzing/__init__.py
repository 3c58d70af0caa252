"""Files that nobody should send, made from a seed: each is the same every time."""
