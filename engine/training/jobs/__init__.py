"""Whole runs of training, from plain options to a file that the service can use."""
