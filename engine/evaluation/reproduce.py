"""The rows of a published table on the data at hand, ours beside theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.describer import Describer
from engine.errors import InvalidOption
from engine.evaluation.datasets import Dataset
from engine.evaluation.descriptors import Progress
from engine.evaluation.methods import Method, Projection
from engine.evaluation.published import PublishedRow, PublishedTable
from engine.evaluation.run import Evaluated, evaluate_methods
from engine.types import Recipe


@dataclass(frozen=True)
class Setting:
    """How the images of some rows are described."""

    layer: str | None
    scales: tuple[float, ...]
    max_side: int
    crop: bool


@dataclass(frozen=True)
class ReproducedRow:
    """One row: `evaluated` is None where it could not be run, and `reason` says why.

    `theirs` are the printed figures for this benchmark, by kind of query; `recipe` is how the
    images were described, and `cropped` whether queries were cut to their box.
    """

    label: str
    theirs: dict[str, float]
    evaluated: Evaluated | None = None
    reason: str = ""
    recipe: Recipe | None = None
    cropped: bool = True

    @property
    def ours(self) -> dict[str, float]:
        return self.evaluated.scores.kinds if self.evaluated else {}


def reproduce(
    table: PublishedTable,
    dataset: Dataset,
    describer: Callable[[Setting], Describer],
    *,
    cache_dir: Path,
    progress: Callable[[str], Progress],
    fit_on: Dataset | None,
    has_filter: bool,
) -> list[ReproducedRow]:
    """Every row of the table, in its order.

    Args:
        describer: makes one for a setting; rows with the same share it.
        has_filter: a learned co-occurrence filter is part of the describers.
    """
    done: dict[int, ReproducedRow] = {}
    groups: dict[Setting, list[int]] = {}
    for number, row in enumerate(table.rows):
        if row.needs_filter and not has_filter:
            reason = "needs a trained filter: --cooccurrence FILE"
            done[number] = ReproducedRow(row.label, _theirs(row, dataset), reason=reason)
        else:
            setting = Setting(row.layer, row.scales, row.max_side, row.crop)
            groups.setdefault(setting, []).append(number)
    for setting, numbers in groups.items():
        try:
            made = describer(setting)
        except InvalidOption as error:  # e.g. a layer that this trunk does not have
            for number in numbers:
                row = table.rows[number]
                done[number] = ReproducedRow(row.label, _theirs(row, dataset), reason=str(error))
            continue
        queries = dataset.queries
        if not setting.crop:
            queries = tuple(replace(query, bbox=None) for query in queries)
        methods = [_possible(table.rows[number].method, fit_on) for number in numbers]
        evaluated = evaluate_methods(
            replace(dataset, queries=queries),
            made,
            methods,
            cache_dir=cache_dir,
            progress=progress,
            fit_on=fit_on,
        )
        by_method = {entry.method: entry for entry in evaluated}
        for number, method in zip(numbers, methods, strict=True):
            row = table.rows[number]
            labelled = replace(by_method[method], label=row.label)
            done[number] = ReproducedRow(
                row.label,
                _theirs(row, dataset),
                labelled,
                recipe=made.recipe,
                cropped=setting.crop,
            )
    return [done[number] for number in range(len(table.rows))]


def _possible(method: Method, fit_on: Dataset | None) -> Method:
    """Without matches to learn a whitening from, raw descriptors are ranked."""
    if method.projection.kind == "lw" and fit_on is None:
        return replace(method, projection=Projection())
    return method


def _theirs(row: PublishedRow, dataset: Dataset) -> dict[str, float]:
    return {
        kind: figure
        for (benchmark, kind), figure in row.figures.items()
        if benchmark == dataset.benchmark
    }


def kinds_of(rows: Sequence[ReproducedRow]) -> list[str]:
    """Every kind of query for which there is a figure, in the order of first appearance."""
    kinds = [kind for row in rows for kind in (*row.ours, *row.theirs)]
    return list(dict.fromkeys(kinds))
