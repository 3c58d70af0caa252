"""What was acknowledged, in SQLite: images, their metadata and descriptors; the source of truth."""

from engine.catalog.catalog import MAX_METADATA, READ_CHUNK, Catalog, stored_descriptor

__all__ = ["MAX_METADATA", "READ_CHUNK", "Catalog", "stored_descriptor"]
