"""The index as a whole."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from app.schemas.base import Out, Strict
from engine.calibration import Calibration


class CalibrationOut(Out):
    """What scores of the live generation were measured to mean."""

    near: float
    """From this score on a hit is near."""
    lowest_max_fpr: float | None
    """The lowest rate that may be asked for; null if there is none."""
    images: int
    """Stored images that were measured with."""
    matches: int
    """Pairs of a photo and a made copy."""
    non_matches: int
    """Pairs of different photos."""

    @classmethod
    def of(cls, calibration: Calibration) -> CalibrationOut:
        return cls(
            near=calibration.near,
            lowest_max_fpr=min(calibration.rates, default=None),
            images=calibration.images,
            matches=calibration.matches,
            non_matches=calibration.pairs,
        )


class IndexOut(Out):
    """State of the index."""

    count: int
    """Images in it."""
    generation: int
    """The live one; 0 before the first build."""
    fitted: int
    """Images that the live generation was built with."""
    unfitted: int
    """Images that were added after that."""
    dim: int
    """Length of an indexed vector."""
    projected: bool
    """Whether descriptors are projected: from the first build on."""
    explained_variance: float
    """Part of the variance that the projection keeps."""
    index_type: str
    """How vectors are kept, such as `flat` or `ivf_sq8`."""
    bytes: int
    """Vectors and codes in memory."""
    built_at: datetime | None
    """When the live generation was built."""
    fingerprint: str
    """Of the recipe."""
    recipe: dict[str, Any]
    """Everything that decides what a descriptor means."""
    precision: str
    """`float32` or `bfloat16`."""
    recall: float
    """Share of the 10 nearest that a search finds, measured on images of the collection when it
    was built."""
    nprobe: int
    """Cells that a search looks into."""
    candidates: int
    """Images that it compares exactly."""
    cells: int
    """Of the whole index."""
    mapped_bytes: int
    """Vectors on disk, of which the system keeps in memory what is used."""
    build_seconds: float
    """What the last build took."""
    generations: list[int]
    """Those that can be rolled back to, and the live one."""
    calibration: CalibrationOut | None
    """Null before a build of 50 images or more."""


class DuplicatesIn(Strict, strict=True):
    """From which score, or probability of the same origin, on two images count as duplicates; at
    most one of the two. Without either from where a search calls a hit near."""

    min_score: Annotated[
        float | None, Field(ge=-1.0, le=1.0, description="From this score on.")
    ] = None
    min_probability: Annotated[
        float | None, Field(gt=0.0, le=1.0, description="From this probability on.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=10_000, description="Groups, the largest first.")] = 1000


class RollbackIn(Strict, strict=True):
    """Where to go back to."""

    generation: Annotated[
        int | None,
        Field(ge=1, le=1 << 53, description="Default: the newest one before the live one."),
    ] = None


class ReloadOut(Out):
    """What is live now."""

    generation: int
    """Its number."""
    count: int
    """Images in the index."""
