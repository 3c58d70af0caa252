"""Nearest neighbours among descriptors: exact, coded with exact re-ranking, and both together."""

from engine.vector_index.building import (
    AUTO,
    INDEX_TYPES,
    BuildOptions,
    Built,
    build_base,
    choose_index_type,
    write_vectors,
)
from engine.vector_index.flat import FlatIndex
from engine.vector_index.index import VectorIndex
from engine.vector_index.knobs import Allowed, SearchKnobs

__all__ = [
    "AUTO",
    "INDEX_TYPES",
    "Allowed",
    "BuildOptions",
    "Built",
    "FlatIndex",
    "SearchKnobs",
    "VectorIndex",
    "build_base",
    "choose_index_type",
    "write_vectors",
]
