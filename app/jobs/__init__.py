"""Durable jobs: long work that survives a crash and goes on where it was."""

from app.jobs.runner import Jobs

__all__ = ["Jobs"]
