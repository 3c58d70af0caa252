"""A client of the co-occurrence image search service.

    from cooc_client import Client

    with Client("http://127.0.0.1:8000") as photos:
        photos.put("beach.jpg", "beach.jpg", {"album": "2024"})
        for result in photos.search("query.jpg", limit=5).results:
            print(result.rank, result.id, result.score)

It needs httpx only: it loads nothing of the service, and no model.
"""

from cooc_client.client import Client
from cooc_client.errors import (
    Conflict,
    CoocError,
    InvalidRequest,
    NotFound,
    NotPermitted,
    Problem,
    TooLarge,
    Unavailable,
    Unreachable,
)
from cooc_client.images import Example, Region, Stored
from cooc_client.models import (
    Comparison,
    Grid,
    Image,
    Job,
    JobError,
    Progress,
    Result,
    SearchAnswer,
    Why,
)

__all__ = [
    "Client",
    "Comparison",
    "Conflict",
    "CoocError",
    "Example",
    "Grid",
    "Image",
    "InvalidRequest",
    "Job",
    "JobError",
    "NotFound",
    "NotPermitted",
    "Problem",
    "Progress",
    "Region",
    "Result",
    "SearchAnswer",
    "Stored",
    "TooLarge",
    "Unavailable",
    "Unreachable",
    "Why",
]
