"""Going through the stored images a page at a time."""

from __future__ import annotations

from functools import partial

from engine.catalog.catalog import Catalog
from engine.catalog.metadata_columns import MetadataColumns
from engine.filters import Filter, matches
from engine.types import ImageRecord


def list_images(
    catalog: Catalog,
    columns: MetadataColumns,
    *,
    after: str = "",
    limit: int = 100,
    where: Filter | None = None,
) -> tuple[list[ImageRecord], str | None]:
    """Images that pass the filter, whose ids come after `after`, in the order of ids.

    An image that is stored, and passes, from the first page to the last is on exactly one of them,
    whatever is added, replaced or deleted meanwhile.

    Returns: at most `limit` records, and the id after which the next page begins; None at the end.
    Raises: CorruptIndex.
    """
    if where is None:
        found = catalog.page(after, limit + 1)
    else:
        columns.allowed(where)
        found = catalog.page(
            after,
            limit + 1,
            # A write that is on its way has reached the catalog, but not the columns: what they
            # do not know is not ruled out, and the record decides.
            allowed=partial(columns.mask, where, unknown=True),
            keep=lambda record: matches(where, record.metadata),
        )
    return found[:limit], found[limit - 1].id if len(found) > limit else None
