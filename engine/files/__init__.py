"""Files that survive a crash, and the one process that owns their folder."""
