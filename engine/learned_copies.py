"""Copies of learned filters and projections in the data folder: an index needs no other file."""

from __future__ import annotations

from pathlib import Path

from engine.descriptor_weights import DescriptorWeights
from engine.errors import CorruptIndex, InvalidOption
from engine.files.storage import fsync_folder, storage_errors

FOLDER = "learned"


def copy_path(data_dir: Path, digest: str) -> Path:
    """Where the copy of the descriptor weights with this digest is."""
    return data_dir / FOLDER / f"{digest}.safetensors"


def keep_copy(data_dir: Path, weights: DescriptorWeights) -> None:
    """Write the copy, durably, unless it is there and whole. Raises StorageFull.

    None is ever deleted: it may be the only one, and the catalog that names it may be away for a
    moment.
    """
    path = copy_path(data_dir, weights.digest)
    try:
        if DescriptorWeights.read(path).digest == weights.digest:
            return
    except InvalidOption:
        pass  # it is missing or damaged
    with storage_errors(data_dir):
        path.parent.mkdir(parents=True, exist_ok=True)
        weights.save(path)
        fsync_folder(data_dir)


def read_copy(data_dir: Path, digest: str, option: str) -> DescriptorWeights:
    """The copy of a digest.

    Args:
        option: by which the original was given, for the message.

    Raises: CorruptIndex naming the file and the remedy.
    """
    path = copy_path(data_dir, digest)
    remedy = f"restore it from a backup, or start once with {option} and the file it was made with"
    try:
        weights = DescriptorWeights.read(path)
    except InvalidOption as error:
        raise CorruptIndex(f"the index is incomplete: {error}; {remedy}") from error
    if weights.digest != digest:
        raise CorruptIndex(f"{path} does not have the content that was written; {remedy}")
    return weights
