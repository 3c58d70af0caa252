"""The index that is searched now: how it is written to, and exchanged for a new one."""
