"""How far FAISS looks, and which vectors it may answer."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from engine.vector_index.knobs import Mask

ALL_THREADS = faiss.omp_get_max_threads()


def use_threads(queries: int) -> None:
    """Let FAISS use one thread of this caller for one query, and all for many.

    What a second thread saves in one search, waiting for it costs where searches come at once or
    the machine is busy: 50 ms in the place of one.
    """
    faiss.omp_set_num_threads(1 if queries == 1 else ALL_THREADS)


def flat_parameters(mask: Mask | None) -> Any:
    """Parameters of one exact search, among the positions at which (N,) `mask` is true."""
    return None if mask is None else _with(faiss.SearchParameters(), mask)


def cell_parameters(nprobe: int, mask: Mask | None = None) -> Any:
    """Parameters of one search in `nprobe` cells, among the positions at which `mask` is true."""
    parameters: Any = faiss.SearchParametersIVF()
    parameters.nprobe = nprobe
    return parameters if mask is None else _with(parameters, mask)


def _with(parameters: Any, mask: Mask) -> Any:
    bitmap: Any = faiss.IDSelectorBitmap
    chosen = bitmap(np.packbits(mask, bitorder="little"))
    parameters.sel = chosen
    # They only point to the selector, which has to live as long as they do.
    parameters.selector_kept = chosen
    return parameters
