"""Tables and JSON of `cooc evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.evaluating.report import method_label
from app.terminal import console
from engine.backbones.weights import Weights
from engine.describer import Describer
from engine.evaluation.datasets import Dataset, queries_without_positives
from engine.evaluation.methods import Projection, QueryExpansion
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
    methods = [entry.method for entry in evaluated]
    columns: dict[str, list[Any]] = {
        "pooling": [method.pooling for method in methods],
        "projection": [_projection(entry) for entry in evaluated],
    }
    if any(method.augmentation for method in methods):
        columns["augmentation"] = [method.augmentation for method in methods]
    if any(method.expansion.kind is not Expansion.NONE for method in methods):
        columns["expansion"] = [_expansion(entry) for entry in evaluated]
    columns["dim"] = [entry.dim for entry in evaluated]
    columns["queries"] = [entry.scores.queries for entry in evaluated]
    if len(kinds) > 1:
        columns |= {kind: [e.scores.kinds.get(kind, 0.0) for e in evaluated] for kind in kinds}
    columns["mAP"] = [entry.scores.map for entry in evaluated]
    for k in evaluated[0].scores.precision_at:
        columns[f"mP@{k}"] = [entry.scores.precision_at[k] for entry in evaluated]
    rows = list(zip(*columns.values(), strict=True))
    console.table(list(columns), rows, title=_title(dataset, describer))
    for entry in evaluated:
        if entry.method in same:
            _show_origin(method_label(entry), same[entry.method])
    empty = queries_without_positives(dataset)
    if empty:
        _say(f"{len(empty)} queries have no positives and were left out, the first is {empty[0]!r}")


def _say(text: str) -> None:
    """A line on stderr, names in it as they are."""
    console.err.print(text, soft_wrap=True, markup=False, highlight=False)


def result(entry: Evaluated) -> Json:
    """One method as JSON."""
    method, scores = entry.method, entry.scores
    return {
        "pooling": method.pooling,
        "projection": method.projection.kind,
        "fitted_on": entry.fitted_on,
        **(_fitting(method.projection) if entry.fitted_on is not None else {}),
        "expansion": method.expansion.kind.value,
        **(_growing(method.expansion) if method.expansion.kind is not Expansion.NONE else {}),
        "augmentation": method.augmentation,
        "map": round(scores.map, 4),
        "kinds": {kind: round(value, 4) for kind, value in scores.kinds.items()},
        "precision_at": {str(k): round(value, 4) for k, value in scores.precision_at.items()},
        "queries": scores.queries,
        "dim": entry.dim,
    }


def _fitting(projection: Projection) -> Json:
    """`shrinkage` is null where the data decide it."""
    return {
        "projection_power": projection.power,
        "shrinkage": projection.shrinkage,
    }


def _growing(expansion: QueryExpansion) -> Json:
    return {"neighbours": expansion.neighbours, "alpha": expansion.exponent}


def show_reproduced(
    table: PublishedTable,
    dataset: Dataset,
    rows: Sequence[ReproducedRow],
    weights: Weights,
    json: bool,
) -> None:
    """Ours beside theirs, row by row, with how ours was described."""
    if json:
        results = [
            {
                "label": row.label,
                "ours": {kind: round(value, 4) for kind, value in row.ours.items()},
                "theirs": row.theirs,
                "skipped": row.reason or None,
                **_ran(row),
                **({} if row.evaluated is None else {"method": result(row.evaluated)}),
            }
            for row in rows
        ]
        about = {
            "table": table.title,
            "weights": weights.name,
            "trained": weights.trained,
            "notes": list(table.notes),
        }
        console.print_json({**_about(dataset), **about, "results": results})
        return
    kinds = kinds_of(rows)
    columns = ["row", "layer", "side", "scales", "dim"]
    columns += [f"{kind}: {whose}" for kind in kinds for whose in ("ours", "theirs")]
    lines = []
    for row in rows:
        ran = _ran(row)
        scales = ", ".join(f"{scale:.3g}" for scale in ran.get("scales", ()))
        line: list[Any] = [row.label, ran.get("layer", "-"), str(ran.get("max_side", "-"))]
        line += [scales or "-", str(row.evaluated.dim) if row.evaluated else "-"]
        for kind in kinds:
            for figures in (row.ours, row.theirs):
                line.append(f"{figures[kind]:.2f}" if kind in figures else "-")
        lines.append(line)
    trunk = next((row.recipe.backbone for row in rows if row.recipe), table.backbone)
    console.table(columns, lines, title=f"{table.title}; on {dataset.name}, with {trunk}")
    notes = [weights.notice, *table.notes]
    if dataset.benchmark is None:
        notes.insert(0, f"No figures are published for {dataset.name}: ours stand alone.")
    notes += [f"Not run: {row.label}: {row.reason}" for row in rows if row.reason]
    for note in notes:
        console.out.print(f"- {note}", soft_wrap=True, markup=False, highlight=False)


def _ran(row: ReproducedRow) -> Json:
    """How the images of a row were described; empty where it was not run."""
    if row.recipe is None:
        return {}
    return {
        "backbone": row.recipe.backbone,
        "layer": row.recipe.layer,
        "max_side": row.recipe.max_side,
        "scales": list(row.recipe.scales),
        "queries_cropped": row.cropped,
    }


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
    if len(rows) > 1 and best in (rows[0], rows[-1]):
        _say(f"the best threshold of {label} is at the edge of the range: widen --thresholds")
