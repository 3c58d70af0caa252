"""Tables and JSON of `cooc evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app import console
from engine.describer import Describer
from engine.evaluation.datasets import Dataset, queries_without_positives
from engine.evaluation.published import PublishedTable
from engine.evaluation.reproduce import ReproducedRow, kinds_of
from engine.evaluation.run import Evaluated
from engine.evaluation.same_origin import ThresholdRow, best_threshold, same_origin_table
from engine.types import Expansion, Json

Steps = tuple[float, float, float]
"""Low, high and step of the thresholds."""


def show(
    dataset: Dataset,
    describer: Describer,
    evaluated: Sequence[Evaluated],
    steps: Steps | None,
    json: bool,
) -> None:
    """One line for each method; with `steps` a table of thresholds for each as well."""
    same = {}
    if steps is not None:
        low, high, step = steps
        same = {
            entry.method: same_origin_table(
                dataset, entry.similarities, low=low, high=high, step=step
            )
            for entry in evaluated
        }
    if json:
        results = [
            {**result(entry), **({"same_origin": _origin(same[entry.method])} if same else {})}
            for entry in evaluated
        ]
        console.print_json({**_about(dataset), **_described(describer), "results": results})
        return
    kinds = list(dict.fromkeys(kind for entry in evaluated for kind in entry.scores.kinds))
    expanded = any(entry.method.expansion.kind is not Expansion.NONE for entry in evaluated)
    shown = kinds if len(kinds) > 1 else []
    columns = ["pooling", "projection", *(["expansion"] if expanded else []), "dim", "queries"]
    columns += [*shown, "mAP", *(f"mP@{k}" for k in evaluated[0].scores.precision_at)]
    rows = []
    for entry in evaluated:
        scores, method = entry.scores, entry.method
        row: list[Any] = [method.pooling, _projection(entry)]
        row += [_expansion(entry)] if expanded else []
        row += [entry.dim, scores.queries, *(scores.kinds.get(kind, 0.0) for kind in shown)]
        rows.append([*row, scores.map, *scores.precision_at.values()])
    console.table(columns, rows, title=_title(dataset, describer))
    for name, entries in same.items():
        _show_origin(name.pooling, entries)
    empty = queries_without_positives(dataset)
    if empty:
        console.err.print(
            f"{len(empty)} queries have no positives and were left out, the first is {empty[0]!r}"
        )


def result(entry: Evaluated) -> Json:
    """One method as JSON."""
    method, scores = entry.method, entry.scores
    return {
        "pooling": method.pooling,
        "projection": method.projection.kind,
        "fitted_on": entry.fitted_on,
        "expansion": method.expansion.kind.value,
        "augmentation": method.augmentation,
        "map": round(scores.map, 4),
        "kinds": {kind: round(value, 4) for kind, value in scores.kinds.items()},
        "precision_at": {str(k): round(value, 4) for k, value in scores.precision_at.items()},
        "queries": scores.queries,
        "dim": entry.dim,
    }


def show_reproduced(
    table: PublishedTable, dataset: Dataset, rows: Sequence[ReproducedRow], json: bool
) -> None:
    """Ours beside theirs, row by row."""
    if json:
        results = [
            {
                "label": row.label,
                "ours": {kind: round(value, 4) for kind, value in row.ours.items()},
                "theirs": row.theirs,
                "skipped": row.reason or None,
                **({} if row.evaluated is None else {"method": result(row.evaluated)}),
            }
            for row in rows
        ]
        about = {"table": table.title, "notes": list(table.notes)}
        console.print_json({**_about(dataset), **about, "results": results})
        return
    kinds = kinds_of(rows)
    columns = ["row", "dim"]
    columns += [f"{kind}: {whose}" for kind in kinds for whose in ("ours", "theirs")]
    lines = []
    for row in rows:
        line: list[Any] = [row.label, row.evaluated.dim if row.evaluated else "-"]
        for kind in kinds:
            for figures in (row.ours, row.theirs):
                line.append(f"{figures[kind]:.2f}" if kind in figures else "-")
        lines.append(line)
    console.table(columns, lines, title=f"{table.title}; on {dataset.name}")
    if dataset.benchmark is None:
        console.out.print(f"No figures are published for {dataset.name}: ours stand alone.")
    for row in rows:
        if row.reason:
            console.out.print(f"not run: {row.label}: {row.reason}")
    for note in table.notes:
        console.out.print(f"- {note}")


def _about(dataset: Dataset) -> Json:
    return {
        "dataset": dataset.name,
        "format": dataset.format,
        "benchmark": dataset.benchmark,
        "database": len(dataset.database),
        "without_positives": queries_without_positives(dataset),
    }


def _described(describer: Describer) -> Json:
    recipe = describer.recipe
    return {
        "backbone": recipe.backbone,
        "layer": recipe.layer,
        "weights": recipe.weights,
        "weights_digest": recipe.weights_digest,
        "max_side": recipe.max_side,
        "scales": list(recipe.scales),
        "precision": describer.precision,
    }


def _title(dataset: Dataset, describer: Describer) -> str:
    recipe = describer.recipe
    scales = "" if recipe.scales == (1.0,) else f", {len(recipe.scales)} scales"
    trunk = f"{recipe.backbone} {recipe.layer}{scales}"
    if not describer.weights.trained:
        trunk += ", untrained weights"
    return f"{dataset.name}: {len(dataset.database)} images, {trunk}"


def _projection(entry: Evaluated) -> str:
    kind = entry.method.projection.kind
    return kind if entry.fitted_on is None else f"{kind} ({entry.fitted_on})"


def _expansion(entry: Evaluated) -> str:
    expansion = entry.method.expansion
    if expansion.kind is Expansion.NONE:
        return "none"
    return f"{expansion.kind.value} {expansion.neighbours}"


def _origin(rows: Sequence[ThresholdRow]) -> Json:
    best = best_threshold(rows)
    return {
        "best_threshold": best.threshold,
        "best_f1": round(best.f1, 6),
        "thresholds": [_row(r) for r in rows],
    }


def _row(row: ThresholdRow) -> Json:
    return {
        "threshold": row.threshold,
        "same_origin": row.same_origin,
        "unrelated": row.unrelated,
        "precision": round(row.precision, 6),
        "recall": round(row.recall, 6),
        "f1": round(row.f1, 6),
    }


def _show_origin(label: str, rows: Sequence[ThresholdRow]) -> None:
    best = best_threshold(rows)
    columns = ("threshold", "same origin", "unrelated", "precision", "recall", "F1", "")
    lines = [
        [
            f"{row.threshold:g}",
            row.same_origin,
            row.unrelated,
            f"{row.precision:.3f}",
            f"{row.recall:.3f}",
            f"{row.f1:.3f}",
            "best" if row is best else "",
        ]
        for row in rows
    ]
    console.table(columns, lines, title=f"{label}: pairs above each threshold")
