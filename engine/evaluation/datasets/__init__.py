"""Retrieval data sets: this project's own format and those of the published benchmarks."""

from engine.evaluation.datasets.base import (
    Dataset,
    Query,
    missing_files,
    queries_without_positives,
)
from engine.evaluation.datasets.load import load_dataset

__all__ = ["Dataset", "Query", "load_dataset", "missing_files", "queries_without_positives"]
