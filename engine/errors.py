"""Every error the engine raises on purpose. Messages name the value and the remedy."""

from __future__ import annotations


class EngineError(Exception):
    """Base of all errors that the engine raises for its callers."""

    @property
    def message(self) -> str:
        return str(self)


class InvalidOption(EngineError):
    """An option has a value outside its range, or two options contradict each other."""


class InvalidFilter(InvalidOption):
    """A filter on metadata that cannot be understood; `pointer` is the place within its JSON."""

    def __init__(self, detail: str, *, pointer: str) -> None:
        super().__init__(f"the filter, at {pointer or 'its top'}: {detail}")
        self.pointer = pointer
        self.detail = detail


class BadImage(EngineError):
    """The bytes are an image we know but cannot use: truncated, too small, a pixel bomb."""


class UnsupportedImage(EngineError):
    """The bytes are no image, or an image format outside the whitelist."""


class ImageTooLarge(EngineError):
    """The encoded image has more bytes than the limit allows."""


class UnknownImage(EngineError):
    """No image is stored under this id."""


class IdTaken(EngineError):
    """An id that was chosen for a new image was given to another one meanwhile."""


class RebuildIncomplete(EngineError):
    """Images have no descriptor of the new recipe; the old index stays in use."""


class BadRegion(EngineError):
    """The region of an image is empty, too small, or not within it."""


class NoOriginal(EngineError):
    """The bytes of this image were not kept."""


class RegionNeedsOriginal(EngineError):
    """A region of a stored image was asked for, whose bytes were not kept."""


class UnknownSnapshot(EngineError):
    """There is no snapshot of this name."""


class EmptyIndex(EngineError):
    """The operation needs at least one stored image."""


class IndexMismatch(EngineError):
    """Index and recipe have different fingerprints; an answer would be wrong."""


class CorruptIndex(EngineError):
    """A file of the index does not have the content that was written."""


class NoGeneration(EngineError):
    """No generation has been built yet, or the named one does not exist."""


class GenerationNotReached(EngineError):
    """A generation was asked for that is not live yet."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooFewImages(EngineError):
    """The collection is too small, or has not been built, to tell what was asked for."""


class WeightsUnavailable(EngineError):
    """The weights of the trunk cannot be downloaded, read or matched to it."""


class StorageFull(EngineError):
    """The disk has no room left; nothing of the write was kept."""


class StorageReadOnly(EngineError):
    """The data folder cannot be written."""


class DataFolderInUse(EngineError):
    """Another process owns the data folder."""

    def __init__(self, message: str, *, pid: int | None = None, url: str | None = None) -> None:
        super().__init__(message)
        self.pid = pid
        self.url = url


class Overloaded(EngineError):
    """The queue before the model is full; try again later."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(EngineError):
    """The answer did not come within the allowed time."""


class OutOfMemory(EngineError):
    """One image alone does not fit in the memory of the device."""


class DeviceLost(EngineError):
    """The device computes nothing more for this process, whatever it is asked for."""


class TrainingFailed(EngineError):
    """A run of training cannot go on: a loss that is no number, a checkpoint of another recipe."""


class RecallTooLow(EngineError):
    """A coded index finds too few of the nearest images; it was not published."""
