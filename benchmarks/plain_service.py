"""The usual way to serve a model, to compare with: a route that decodes, runs the model and ranks,
with neither a queue nor batches nor bounds. FastAPI runs it in its 40 threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
import uvicorn
from fastapi import FastAPI, File

from engine.describer import Describer
from engine.types import Vectors


def serve(make: Callable[[], Describer], prepare: Callable[[], object], port: int) -> None:
    """Serve `POST /search` with the describer that `make` returns, until killed."""
    prepare()
    describer = make()
    stored = stored_vectors(1000, describer.pooling.dim)
    app = FastAPI()

    @app.post("/search")
    def search(image: Annotated[bytes, File()]) -> dict[str, list[dict[str, float]]]:
        (vector,) = describer.describe([describer.decode(image).pixels])
        scores = stored @ vector
        best = np.argsort(-scores)[:10]
        return {"results": [{"id": int(row), "score": float(scores[row])} for row in best]}

    uvicorn.run(app, port=port, log_level="error", access_log=False)


def stored_vectors(count: int, dim: int) -> Vectors:
    """(N, D) made unit vectors."""
    vectors = np.random.default_rng(0).standard_normal((count, dim), dtype=np.float32)
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
