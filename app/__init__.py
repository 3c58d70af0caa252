"""The HTTP side and the command line. Imports `engine`; never torch or faiss itself."""

__version__ = "0.1.0"
