"""Parts of the crash test: a server to kill, clients, what they know, and the checks."""
