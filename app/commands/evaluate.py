"""`cooc evaluate`: methods on a data set, and published tables again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.settings import Settings, load_settings
from app.terminal import console, options
from engine.errors import InvalidOption
from engine.types import Expansion

if TYPE_CHECKING:
    from engine.descriptor_weights import DescriptorWeights
    from engine.evaluation.methods import Projection

THRESHOLDS = "0.50:0.95:0.01"
TABLES = ("table1", "table2", "table3", "table4", "dir")


def evaluate(
    dataset: Annotated[
        Path,
        typer.Argument(
            help="Folder of a data set: gt.json and images/, Oxford5k or Paris6k (jpg/, lab/), "
            "ROxford or RParis (jpg/, gnd_*.pkl or .mat), Holidays, or a folder for each group."
        ),
    ],
    pooling: Annotated[
        list[str] | None,
        typer.Option("--pooling", help="E.g. gem, cbp_ac:mask=sptd. Repeatable; default cbp_ac."),
    ] = None,
    projection: Annotated[
        list[str] | None,
        typer.Option(
            "--projection",
            help="none, fitted (PCA), lw (learned from matches), or a trained one "
            "(.safetensors). Repeatable.",
        ),
    ] = None,
    projection_dim: Annotated[
        int | None, typer.Option(min=1, max=8192, help="At most so many values; default 512.")
    ] = None,
    projection_power: Annotated[
        float | None,
        typer.Option(min=0.0, max=0.5, help="Of the eigenvalues; 0.5 whitens fully."),
    ] = None,
    shrinkage: Annotated[
        str | None, typer.Option(help="Of the eigenvalues, 0 to 1, or auto (Ledoit and Wolf).")
    ] = None,
    fit_on: Annotated[
        Path | None,
        typer.Option(help="Data set to fit projections on; default the database itself."),
    ] = None,
    expansion: Annotated[
        list[Expansion] | None,
        typer.Option("--expansion", help="Query expansion: none, average, alpha. Repeatable."),
    ] = None,
    neighbours: Annotated[
        int | None, typer.Option(min=1, max=1000, help="That join an expanded query; default 10.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(min=0.0, max=10.0, help="Of alpha expansion; default 3.")
    ] = None,
    augmentation: Annotated[
        int, typer.Option(help="Neighbours that join each database image (DBA).")
    ] = 0,
    reproduce: Annotated[
        str | None,
        typer.Option(help=f"Rows of a published table, ours beside theirs: {', '.join(TABLES)}."),
    ] = None,
    same_origin: Annotated[
        bool, typer.Option(help="Precision, recall, F1 and counts for each threshold.")
    ] = False,
    thresholds: Annotated[
        str | None, typer.Option(help=f"For --same-origin: low:high:step; default {THRESHOLDS}.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with the best and worst queries (.html).")
    ] = None,
    contact_sheets: Annotated[
        Path | None,
        typer.Option(
            help="Folder for pictures of queries and their first hits, by the best method."
        ),
    ] = None,
    correlation: Annotated[
        Path | None,
        typer.Option(help="Draw the correlation of the queries' co-occurrence vectors (.png)."),
    ] = None,
    cooccurrence: options.Cooccurrence = None,
    whole_queries: Annotated[bool, typer.Option(help="Do not cut queries to their box.")] = False,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep descriptors for the next time.")
    ] = True,
    backbone: options.Backbone = None,
    layer: options.Layer = None,
    weights: options.Weights = None,
    max_side: options.MaxSide = None,
    scales: options.Scales = None,
    device: options.Device = None,
    precision: options.Precision = None,
    json: options.Json = False,
) -> None:
    """Rank the database for every query and print mAP, per kind of query."""
    from app.evaluating import output
    from app.evaluating.work import Work, load
    from app.learned import with_trunk_of
    from engine.backbones.weights import AUTO
    from engine.cooccurrence_filter import pooling_with_filter
    from engine.descriptor_weights import read_cooccurrence
    from engine.evaluation.methods import Method, QueryExpansion
    from engine.evaluation.published import published_tables
    from engine.pooling import uses_filter

    console.log_to_stderr()
    table = None
    if reproduce is not None:
        if reproduce not in TABLES:
            raise InvalidOption(f"reproduce is {reproduce!r}; choose from {', '.join(TABLES)}")
        decided = {
            "--pooling": pooling,
            "--projection": projection,
            "--projection-dim": projection_dim,
            "--projection-power": projection_power,
            "--shrinkage": shrinkage,
            "--expansion": expansion,
            "--neighbours": neighbours,
            "--alpha": alpha,
            "--augmentation": augmentation or None,
            "--same-origin": same_origin or None,
            "--thresholds": thresholds,
        }
        given = [name for name, value in decided.items() if value is not None]
        if given:
            raise InvalidOption(f"--reproduce decides what is run; leave out {', '.join(given)}")
        table = published_tables()[reproduce]
    settings = load_settings(
        backbone=backbone,
        layer=layer,
        weights=weights,
        max_side=max_side,
        scales=scales,
        projection_dim=projection_dim,
        projection_power=projection_power,
        cooccurrence=cooccurrence,
        device=device,
        precision=precision,
    )
    if table is not None and settings.backbone == AUTO:
        settings = settings.model_copy(update={"backbone": table.backbone})
    if thresholds is not None and not same_origin:
        raise InvalidOption("--thresholds goes with --same-origin; leave it out or add that")
    steps = _thresholds(thresholds or THRESHOLDS) if same_origin else None
    amount = _shrinkage(shrinkage, settings)
    _check_outputs(report, contact_sheets, correlation)
    trained = None if settings.cooccurrence is None else read_cooccurrence(settings.cooccurrence)
    default = settings.pooling
    if table is None and not pooling and trained is not None and trained.cooccurrence is not None:
        default = pooling_with_filter(default, trained.cooccurrence, trained.name)
    poolings = [_with_radius(spec, trained) for spec in dict.fromkeys(pooling or [default])]
    projections = [
        _projection(kind, settings, amount)
        for kind in dict.fromkeys(projection or ("none", "fitted"))
    ]
    methods = [
        Method(
            spec,
            chosen,
            QueryExpansion(growing, neighbours or 10, 3.0 if alpha is None else alpha),
            augmentation,
        )
        for spec in dict.fromkeys(poolings)
        for chosen in projections
        for growing in dict.fromkeys(expansion or (Expansion.NONE,))
    ]
    if table is None and fit_on is None and "lw" in (projection or ()):
        raise InvalidOption(
            "projection lw learns from the matches of another data set; name it with --fit-on"
        )
    learned = [uses_filter(method.pooling) for method in methods]
    if table is not None:
        learned = [row.needs_filter for row in table.rows]
    if trained is not None and not any(learned):
        raise InvalidOption(
            f"no pooling here uses the filter {settings.cooccurrence}; leave it out or choose e.g. "
            "--pooling cbp_ac:cooccurrence=learned"
        )
    settings = with_trunk_of(settings, trained, *(chosen.given for chosen in projections))
    content = load(dataset, whole_queries=whole_queries)
    other = None if fit_on is None else load(fit_on)
    with Work(settings, trained, keep=cache) as work:
        if table is not None:
            rows = work.reproduce(table, content, other)
            output.show_reproduced(table, content, rows, work.weights(), json)
            found = [row.evaluated for row in rows if row.evaluated is not None]
        else:
            found = work.evaluate(content, methods, other)
            output.show(content, work.describer(), found, steps, json)
        if report is not None:
            work.write_report(report, content, found)
        if contact_sheets is not None and found:
            best = max(found, key=lambda entry: entry.scores.map)
            work.write_contact_sheets(contact_sheets, content, best)
        if correlation is not None:
            work.write_correlation(correlation, content)


def _with_radius(spec: str, trained: DescriptorWeights | None) -> str:
    """A pooling that uses the filter has its radius, whether that is said or not."""
    from engine.cooccurrence_filter import pooling_with_filter
    from engine.pooling import uses_filter

    if trained is None or trained.cooccurrence is None or not uses_filter(spec):
        return spec
    return pooling_with_filter(spec, trained.cooccurrence, trained.name)


def _projection(kind: str, settings: Settings, shrinkage: float | None) -> Projection:
    """One of those that are fitted here, or a trained one from a file."""
    from engine.descriptor_weights import read_projection
    from engine.evaluation.methods import Projection

    if Path(kind).suffix == ".safetensors":
        return Projection(Path(kind).name, given=read_projection(Path(kind)))
    return Projection(kind, settings.projection_dim, settings.projection_power, shrinkage)


def _thresholds(text: str) -> tuple[float, float, float]:
    """low, high and step of `0.50:0.95:0.01`."""
    from engine.evaluation.same_origin import threshold_steps

    try:
        low, high, step = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise InvalidOption(
            f"thresholds is {text!r}; write low:high:step, e.g. 0.50:0.95:0.01"
        ) from error
    threshold_steps(low, high, step)
    return low, high, step


def _shrinkage(text: str | None, settings: Settings) -> float | None:
    """None stands for the value that the data suggest."""
    if text is None:
        return settings.projection_shrinkage
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise InvalidOption(f"shrinkage is {text!r}; it must be auto or in [0, 1]") from error
    if not 0 <= value <= 1:
        raise InvalidOption(f"shrinkage is {text}; it must be auto or in [0, 1]")
    return value


def _check_outputs(report: Path | None, sheets: Path | None, correlation: Path | None) -> None:
    """Before hours of work, not after them."""
    if report is not None and (report.suffix != ".html" or not report.parent.is_dir()):
        raise InvalidOption(f"--report is {report}; it must be a .html file in an existing folder")
    if sheets is not None and (sheets.is_file() or not sheets.parent.is_dir()):
        raise InvalidOption(f"--contact-sheets is {sheets}; it must be a folder in an existing one")
    if correlation is not None and (
        correlation.suffix != ".png" or not correlation.parent.is_dir()
    ):
        raise InvalidOption(
            f"--correlation is {correlation}; it must be a .png file in an existing folder"
        )
