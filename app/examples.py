"""Requests of the OpenAPI document. A test sends each of them."""

from __future__ import annotations

from typing import Any

Examples = dict[str, Any]

SEARCHES: Examples = {
    "stored": {
        "summary": "By a stored image",
        "value": {"query": {"id": "holiday/beach.jpg"}, "limit": 5},
    },
    "filtered": {
        "summary": "Among some of the images",
        "value": {
            "query": {"id": "holiday/beach.jpg"},
            "filter": {"and": [{"album": "2024"}, {"not": {"field": "draft", "eq": True}}]},
            "score_threshold": 0.2,
            "exclude_self": True,
        },
    },
    "region": {
        "summary": "By a part of an image that is sent",
        "value": {
            "query": {
                "image_base64": "iVBORw0KGgoAAAANSUhEUgAAADAAAAAgAQMAAABuGmlfAAAABlBMVEUeWsjm"
                "yHitc8P9AAAAF0lEQVR42mNgGDyA8T8DAwMDAxMDFSkAV30BF37tpaAAAAAASUVORK5CYII="
            },
            "region": {"x": 0.25, "y": 0, "width": 0.75, "height": 1, "unit": "norm"},
        },
    },
    "examples": {
        "summary": "By several images, and unlike another",
        "value": {
            "query": {
                "positives": [{"id": "holiday/beach.jpg"}, {"id": "holiday/dunes.jpg"}],
                "negatives": [{"id": "holiday/pier.jpg"}],
            },
            "limit": 20,
        },
    },
}

BATCHES: Examples = {
    "several": {
        "summary": "Two searches, one of them with its own limit",
        "value": {
            "queries": [
                {"query": {"id": "holiday/beach.jpg"}},
                {"query": {"id": "holiday/pier.jpg"}, "limit": 1},
            ],
            "limit": 3,
            "include": [],
        },
    }
}

COMPARISONS: Examples = {
    "stored": {
        "summary": "Two stored images",
        "value": {"a": {"id": "holiday/beach.jpg"}, "b": {"id": "holiday/pier.jpg"}},
    }
}

CHANGES: Examples = {
    "merge": {
        "summary": "Set one entry, remove another",
        "value": {"album": "2024", "draft": None},
    }
}

DUPLICATES: Examples = {
    "score": {"summary": "From a score on", "value": {"min_score": 0.9, "limit": 100}}
}

SNAPSHOTS: Examples = {
    "note": {"summary": "With a note", "value": {"note": "before the big upload"}}
}
