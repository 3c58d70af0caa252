"""Coding a large set of vectors, and measuring what the codes find."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from engine.errors import InvalidOption, RecallTooLow
from engine.types import Rows, Vectors
from engine.vector_index.coded import CODES, EXACT, ROWS, CodedVectors, Effort
from engine.vector_index.exact import ExactVectors, Positions
from engine.vector_index.knobs import SearchKnobs
from engine.vector_index.selection import cell_parameters, use_threads

log = logging.getLogger(__name__)

AUTO = "auto"
FLAT, SQ8, RABITQ, FLOAT16 = "flat", "ivf_sq8", "ivf_rabitq", "float16"
INDEX_TYPES = (FLAT, SQ8, RABITQ, FLOAT16)
FLAT_BELOW, RABITQ_FROM = 20_000, 200_000
"""Images up to which all are compared, in 3 ms, and from which codes of four bits a value pay: in
most cases the first of them tells that a vector is too far away."""
CELLS_PER_ROOT = 4
"""Cells are so many times the square root of the number of vectors."""
TRAIN_PER_CELL = 50
ITERATIONS = 10
ADD_VALUES = 10_000_000
MAX_TRAINED = 150_000_000
"""Values that are coded at once, and that cells are found with: 40 and 600 MB of float32."""
SAMPLED = 400
"""Vectors that are searched for to measure recall: half to choose the effort, half to report."""
SAMPLING_ERROR = 0.01
"""By so much a recall that is measured on half of them may be off."""
RECALL_AT = 10
CODE = {SQ8: "SQ8", RABITQ: "RaBitQ4"}
CANDIDATES = {SQ8: (200,), RABITQ: (50, 100, 200, 400, 800)}
"""Candidates by code that may be ranked exactly. As few as will do: each is a page of a file."""
SCAN_COST = {SQ8: 6.0, RABITQ: 1.5}
RANK_COST = 150.0
"""Relative cost of scanning a code and of ranking a candidate."""

Steps = Callable[[int, int], None]
"""Called with (vectors done, vectors in all); may raise to stop."""


@dataclass(frozen=True)
class BuildOptions:
    """What a build makes.

    `index_type` is one of INDEX_TYPES, or `auto`: by the number of vectors. A coded index looks as
    far as it takes to find `recall_target` of the 10 nearest, and is refused below `min_recall`.
    """

    index_type: str = AUTO
    recall_target: float = 0.99
    min_recall: float = 0.95

    def __post_init__(self) -> None:
        if self.index_type not in (AUTO, *INDEX_TYPES):
            raise InvalidOption(
                f"index type {self.index_type!r} is unknown; "
                f"known are {', '.join((AUTO, *INDEX_TYPES))}"
            )


@dataclass(frozen=True)
class Built:
    """What was made: `recall` at 10, measured on vectors that the effort was not chosen on."""

    index_type: str
    recall: float
    cells: int
    effort: Effort


def choose_index_type(options: BuildOptions, count: int) -> str:
    """The type for `count` vectors."""
    if options.index_type != AUTO:
        return options.index_type
    return FLAT if count < FLAT_BELOW else SQ8 if count < RABITQ_FROM else RABITQ


def write_vectors(
    folder: Path, chunks: Iterable[tuple[Rows, Vectors]], steps: Steps, total: int
) -> Rows:
    """Write unit vectors and their row numbers, chunk by chunk; returns the row numbers."""
    rows: list[Rows] = []
    done = 0
    with (folder / EXACT).open("wb") as file:
        for chunk, vectors in chunks:
            file.write(np.ascontiguousarray(vectors, np.float16).data)
            rows.append(chunk)
            done += len(chunk)
            steps(done, total)
    all_rows = np.concatenate(rows) if rows else np.empty(0, np.int64)
    with (folder / ROWS).open("wb") as file:
        np.save(file, all_rows, allow_pickle=False)
    return all_rows


def build_base(folder: Path, rows: Rows, dim: int, options: BuildOptions, steps: Steps) -> Built:
    """Code the vectors that `write_vectors` wrote.

    With `auto`, a form that clearly misses `recall_target` gives way to a more exact one, and one
    that is below `min_recall` to comparing with all: bursts of more images than there are
    candidates, each nearer to the next than its code can tell, are found in no other way. Raises
    RecallTooLow if the one that was asked for finds too little, whatever effort is made.
    """
    kind = choose_index_type(options, len(rows))
    scanned = Built(FLOAT16, 1.0, 0, Effort(1, 1))
    if kind == FLOAT16:
        return scanned
    exact = ExactVectors(folder / EXACT, len(rows), dim)
    samples = _samples(exact)
    codes: Any = None
    for attempt in (kind, *((SQ8,) if options.index_type == AUTO and kind == RABITQ else ())):
        codes = None  # the ones before need their memory no longer
        codes = _code(exact, attempt, steps)
        built = _with_effort(codes, exact, rows, attempt, samples, options.recall_target)
        if built.recall >= options.recall_target - SAMPLING_ERROR:
            break
    if built.recall < options.min_recall:
        if options.index_type == AUTO:
            log.warning(
                "codes find only %.1f%% of the nearest images; all are compared instead, which "
                "is exact and slower",
                100 * built.recall,
            )
            return scanned
        raise RecallTooLow(
            f"the {built.index_type} index finds {built.recall:.1%} of the nearest images, less "
            f"than the {options.min_recall:.1%} that are asked for, and was not published; "
            f"choose another index type ({FLAT} and {FLOAT16} are exact)"
        )
    with (folder / CODES).open("wb") as file:
        # Not by name: FAISS only prints a failure of closing, when its last bytes are written.
        writer = faiss.PyCallbackIOWriter(file.write, 1 << 20)  # type: ignore[attr-defined, unused-ignore]
        faiss.write_index(codes, writer)
    return built


def _code(exact: ExactVectors, kind: str, steps: Steps) -> Any:
    """An index of inverted lists over all vectors, by position."""
    count, dim = exact.count, exact.dim
    cells = max(1, min(int(CELLS_PER_ROOT * count**0.5), count // 39))
    codes: Any = faiss.index_factory(dim, f"IVF{cells},{CODE[kind]}", faiss.METRIC_INNER_PRODUCT)
    codes.cp.niter = ITERATIONS
    codes.cp.spherical = True
    codes.cp.max_points_per_centroid = TRAIN_PER_CELL
    steps(0, count)
    use_threads(count)
    trained = max(cells, min(TRAIN_PER_CELL * cells, MAX_TRAINED // dim))
    codes.train(exact.take(_even(count, trained)))
    block = max(1, ADD_VALUES // dim)
    for start in range(0, count, block):
        positions = np.arange(start, min(count, start + block))
        codes.add_with_ids(exact.take(positions), positions)
        steps(int(positions[-1]) + 1, count)
    return codes


@dataclass(frozen=True)
class _Sample:
    """Queries (Q, D), their own positions (Q,), and the similarity of the 10th nearest other."""

    queries: Vectors
    own: Positions
    bound: Vectors
    wanted: int


def _samples(exact: ExactVectors) -> tuple[_Sample, _Sample]:
    chosen = _even(exact.count, SAMPLED)
    queries = exact.take(chosen)
    wanted = min(RECALL_AT, exact.count - 1)
    positions, scores = exact.search(queries, wanted + 1)
    bound = np.array(
        [
            others[positions[number] != own][:wanted][-1] if wanted else 0.0
            for number, (own, others) in enumerate(zip(chosen, scores, strict=True))
        ],
        np.float32,
    )
    halves = (slice(0, None, 2), slice(1, None, 2))
    first, second = (_Sample(queries[h], chosen[h], bound[h], wanted) for h in halves)
    return first, second


def _with_effort(
    codes: Any,
    exact: ExactVectors,
    rows: Rows,
    kind: str,
    samples: tuple[_Sample, _Sample],
    target: float,
) -> Built:
    """The least effort that finds `target` of the nearest, or all that can be made.

    It is chosen on one half of the sampled vectors and measured on the other: where that finds
    less than `target`, more is asked of the first half, once.
    """
    tuning, reporting = samples
    trials = _Trials(codes, exact, kind, tuning)
    cells = int(faiss.extract_index_ivf(codes).nlist)
    for asked in ((1 + target) / 2, (3 + target) / 4):
        effort = trials.cheapest(asked)
        recall = _recall(CodedVectors(exact, rows, codes, effort), reporting)
        if recall >= target:
            break
    return Built(kind, recall, cells, effort)


class _Trials:
    """What each effort finds of the sampled neighbours; each is tried at most once."""

    def __init__(self, codes: Any, exact: ExactVectors, kind: str, sample: _Sample) -> None:
        self._codes, self._exact, self._kind, self._sample = codes, exact, kind, sample
        self._cells = int(faiss.extract_index_ivf(codes).nlist)
        self._nprobes = sorted({min(self._cells, round(2 ** (step / 2))) for step in range(48)})
        self._tried: list[list[tuple[float, float, Effort]]] = []

    def cheapest(self, target: float) -> Effort:
        """The cheapest effort that reaches `target`; else of those that find most, the cheapest."""
        reached: list[tuple[float, Effort]] = []
        better = 0
        for number in range(len(self._nprobes)):
            if number == len(self._tried):
                self._tried.append(self._try(self._nprobes[number]))
            for recall, cost, effort in self._tried[number]:
                if recall >= target:
                    reached.append((cost, effort))
                    break
            better += bool(reached)
            # More cells may pay with fewer candidates, but not for long.
            if better > 4:
                break
        if reached:
            return min(reached, key=lambda entry: entry[0])[1]
        most = max(recall for tried in self._tried for recall, _, _ in tried)
        found = [entry for tried in self._tried for entry in tried if entry[0] >= most]
        return min(found, key=lambda entry: entry[1])[2]

    def _try(self, nprobe: int) -> list[tuple[float, float, Effort]]:
        """Recall, cost and effort of so many cells and ever more candidates."""
        sample, kind = self._sample, self._kind
        scanned = nprobe * self._exact.count / self._cells * SCAN_COST[kind]
        most = max(CANDIDATES[kind])
        _, found = self._codes.search(sample.queries, most, params=cell_parameters(nprobe))
        best = [_exact_first(self._exact, sample, n, some) for n, some in enumerate(found)]
        tried = []
        for candidates in CANDIDATES[kind]:
            found_of = float(np.mean([np.sum(hits[:candidates]) for hits in best]))
            recall = found_of / sample.wanted if sample.wanted else 1.0
            tried.append((recall, scanned + candidates * RANK_COST, Effort(nprobe, candidates)))
        return tried


def _exact_first(exact: ExactVectors, sample: _Sample, number: int, some: Positions) -> Vectors:
    """For each candidate by code, best first: 1 if it is one of the nearest. At most `wanted`."""
    positions = some[(some >= 0) & (some != sample.own[number])]
    scores = exact.take(positions) @ sample.queries[number]
    hits: Vectors = (scores >= sample.bound[number] - 1e-6).astype(np.float32)
    # Of more copies than are wanted, any will do.
    hits[np.cumsum(hits) > sample.wanted] = 0
    return hits


def _recall(coded: CodedVectors, sample: _Sample) -> float:
    """Share of the nearest others that are found."""
    if not sample.wanted:
        return 1.0
    found = 0
    answers = coded.search(sample.queries, sample.wanted + 1, SearchKnobs())
    for number, (positions, scores, _) in enumerate(answers):
        others = scores[positions != sample.own[number]][: sample.wanted]
        found += int(np.sum(others >= sample.bound[number] - 1e-6))
    return found / (sample.wanted * len(sample.queries))


def _even(count: int, size: int) -> Positions:
    return np.unique(np.linspace(0, count - 1, min(count, size)).astype(np.int64))
