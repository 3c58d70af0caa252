"""What `cooc evaluate` does: describers, evaluations, and the files it writes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from app.assembly import describer_options, find_trunk
from app.evaluating.report import method_label, write_report
from app.settings import Settings
from app.terminal import console
from engine.backbones.weights import Weights, default_cache_dir
from engine.describer import Describer
from engine.descriptor_weights import DescriptorWeights
from engine.evaluation.cache import prune
from engine.evaluation.datasets import Dataset, load_dataset
from engine.evaluation.methods import Method
from engine.evaluation.published import PublishedTable
from engine.evaluation.reproduce import ReproducedRow, Setting, reproduce
from engine.evaluation.run import Evaluated, check_files, evaluate_methods
from engine.pooling import uses_filter


def load(folder: Path, *, whole_queries: bool = False) -> Dataset:
    """A data set whose files are all there. Raises InvalidOption."""
    dataset = load_dataset(folder)
    check_files(dataset)
    if whole_queries:
        queries = tuple(replace(query, bbox=None) for query in dataset.queries)
        return replace(dataset, queries=queries)
    return dataset


class Work:
    """Descriptors are kept in the cache of the settings, or, without `keep`, for this once."""

    def __init__(
        self, settings: Settings, cooccurrence: DescriptorWeights | None, *, keep: bool
    ) -> None:
        """`cooccurrence` holds the filter for poolings that use a learned one."""
        self.settings = settings
        self.cooccurrence = cooccurrence
        self._keep = keep
        self._weights: Weights | None = None
        self._describers: dict[Setting | None, Describer] = {}
        self._exit = ExitStack()

    def __enter__(self) -> Work:
        if self._keep:
            self.cache_dir = (self.settings.cache_dir or default_cache_dir()) / "descriptors"
        else:
            self.cache_dir = Path(self._exit.enter_context(tempfile.TemporaryDirectory()))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._keep:
            prune(self.cache_dir, self.settings.descriptor_cache_gb * 10**9)
        self._exit.close()

    def describer(self, setting: Setting | None = None) -> Describer:
        """As the settings say; what a published row used yields to what somebody chose."""
        if setting not in self._describers:
            # One at a time: trunks are large.
            self._describers = {setting: self._build(setting)}
        return self._describers[setting]

    def _build(self, setting: Setting | None) -> Describer:
        # First: they may decide the trunk.
        weights, filter_weight = self.weights(), None
        own = self.settings
        # Poolings are built one by one; that of the settings may need a filter that is not here.
        chosen = replace(describer_options(own), pooling="spoc")
        if setting is not None:
            chosen = replace(
                chosen,
                layer=own.layer or setting.layer,
                scales=own.scales if own.chosen("scales") else setting.scales,
                max_side=own.max_side if own.chosen("max_side") else setting.max_side,
            )
        if self.cooccurrence is not None:
            self.cooccurrence.check(chosen.backbone, chosen.layer, weights_digest=weights.digest)
            filter_weight = self.cooccurrence.cooccurrence
        return Describer(chosen, weights, cooccurrence_filter=filter_weight)

    def weights(self) -> Weights:
        """Found once."""
        if self._weights is None:
            with console.late_progress_bar("downloading weights") as progress:
                self.settings, self._weights = find_trunk(self.settings, progress)
        return self._weights

    def evaluate(
        self, dataset: Dataset, methods: Sequence[Method], fit_on: Dataset | None
    ) -> list[Evaluated]:
        """One result for each method, in their order.

        Raises: InvalidOption for a trained projection that belongs to something else.
        """
        describer = self.describer()
        for method in methods:
            self._check_projection(describer, method)
        with ExitStack() as bars:
            found = {
                entry.method: entry
                for entry in evaluate_methods(
                    dataset,
                    describer,
                    methods,
                    cache_dir=self.cache_dir,
                    progress=_bars(bars),
                    fit_on=fit_on,
                )
            }
        return [found[method] for method in methods]

    def reproduce(
        self, table: PublishedTable, dataset: Dataset, fit_on: Dataset | None
    ) -> list[ReproducedRow]:
        """The rows of a published table."""
        with ExitStack() as bars:
            return reproduce(
                table,
                dataset,
                self.describer,
                cache_dir=self.cache_dir,
                progress=_bars(bars),
                fit_on=fit_on,
                has_filter=self.cooccurrence is not None,
            )

    def _check_projection(self, describer: Describer, method: Method) -> None:
        if method.projection.given is None:
            return
        digest = ""
        if self.cooccurrence is not None and uses_filter(method.pooling):
            digest = self.cooccurrence.digest
        method.projection.given.check(
            describer.options.backbone,
            describer.options.layer,
            weights_digest=describer.weights.digest,
            pooling=method.pooling,
            cooccurrence_digest=digest,
        )

    def write_report(self, path: Path, dataset: Dataset, evaluated: Sequence[Evaluated]) -> None:
        """One page on the methods and on the queries that they answer worst and best."""
        with console.progress_bar("writing the report") as bar:
            write_report(path, dataset, self._latest(), evaluated, progress=bar.update)
        _wrote(path, "the report")

    def write_contact_sheets(self, folder: Path, dataset: Dataset, evaluated: Evaluated) -> None:
        """A picture of each of the first queries with its first hits."""
        from app.evaluating.pictures import write_contact_sheets

        with console.progress_bar("drawing contact sheets") as bar:
            write_contact_sheets(folder, dataset, evaluated, bar.update)
        _wrote(folder, f"contact sheets of {method_label(evaluated)}")

    def write_correlation(self, path: Path, dataset: Dataset) -> None:
        """The correlation of the queries' total co-occurrence vectors."""
        from app.evaluating.pictures import write_correlation

        with console.progress_bar("describing queries") as bar:
            write_correlation(path, dataset, self._latest(), self.cache_dir, bar.update)
        _wrote(path, "the correlation of the queries")

    def _latest(self) -> Describer:
        """The one that was used last."""
        return next(iter(self._describers.values()), None) or self.describer()


def _wrote(path: Path, what: str) -> None:
    console.err.print(f"wrote {what} to {path}", soft_wrap=True, highlight=False, markup=False)


def _bars(stack: ExitStack) -> Callable[[str], Callable[[int, int], None]]:
    """A progress bar for each kind of work; the one before it is finished by then."""

    def begin(label: str) -> Callable[[int, int], None]:
        stack.close()
        return stack.enter_context(console.progress_bar(label)).update

    return begin
