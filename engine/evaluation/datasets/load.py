"""Finds out the format of a data set by what lies in its folder."""

from __future__ import annotations

from pathlib import Path

from engine.errors import InvalidOption
from engine.evaluation.datasets import folder as own
from engine.evaluation.datasets import ground_truth, oxford, plain
from engine.evaluation.datasets.base import Dataset

# In this order: a ground truth that was put into the folder goes before what names tell.
_READERS = (
    (own.read, own.LOOKS_FOR),
    (ground_truth.read, ground_truth.LOOKS_FOR),
    (oxford.read, oxford.LOOKS_FOR),
    (plain.read_holidays, plain.HOLIDAYS_LOOKS_FOR),
    (plain.read_groups, plain.GROUPS_LOOKS_FOR),
)


def load_dataset(folder: Path) -> Dataset:
    """The data set in a folder, of the first format that it is found to have.

    Raises: InvalidOption where the folder holds none, or one that contradicts itself.
    """
    if not folder.is_dir():
        raise InvalidOption(f"there is no folder {folder}")
    try:
        for read, _ in _READERS:
            dataset = read(folder)
            if dataset is not None:
                return dataset
    except OSError as error:
        raise InvalidOption(f"cannot read {folder}: {error}") from error
    formats = "; ".join(looks_for for _, looks_for in _READERS)
    raise InvalidOption(f"{folder} is no data set. Looked for: {formats}")
