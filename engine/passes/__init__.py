"""What forward passes share: who waits for them, how large they are, where they are made."""
