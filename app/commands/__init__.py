"""What `cooc` can be asked to do: one file a command, or a group of them."""
