"""`cooc train`: what can be learned, from photos of one's own."""

from __future__ import annotations

import typer

from app.training import distill, filter, metric, whitening

app = typer.Typer(
    help="Learn a filter, a whitening, a small trunk or a small descriptor.", no_args_is_help=True
)
app.command("distill")(distill.distill)
app.command("filter")(filter.train_filter)
app.command("metric")(metric.metric)
app.command("whitening")(whitening.train_whitening)
