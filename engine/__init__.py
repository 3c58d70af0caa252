"""Descriptors, index and search. No HTTP server, no environment variables; takes plain values."""
