"""What is looked up when somebody asks for metrics: the queue, the index, jobs, devices."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import product
from typing import get_args

from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import DBAPIError

from app import __version__
from app.admission import Admission
from app.deps import State
from app.jobs import Jobs
from app.schemas import JobType
from engine.batcher import Load
from engine.errors import EngineError
from engine.live.index_stats import IndexStats
from engine.passes.devices import DeviceUse
from engine.tally import NOTHING, Outcome
from engine.types import Expansion, MatchType

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServiceState(Collector):
    """Nothing of this costs requests anything."""

    def __init__(self, state: State, admission: Admission) -> None:
        self._state, self._admission = state, admission

    def describe(self) -> Iterable[Metric]:
        return ()  # else it would be collected once just for the names

    def collect(self) -> Iterator[Metric]:
        service = self._state.service
        ready = service is not None and self._state.lost is None
        yield _gauge("cooc_ready", "1 while the index can be searched.", ready)
        yield from admission_metrics(self._admission)
        yield _gauge(
            "cooc_data_free_bytes",
            "Free space of the file system that the data folder is on.",
            _free_bytes(self._state),
        )
        if service is None:
            yield _info("cooc_info", "What runs here.", version=__version__)
            return
        searcher = service.searcher
        stats = searcher.stats()
        yield _info(
            "cooc_info",
            "What runs here.",
            version=__version__,
            backbone=stats.recipe.backbone,
            pooling=stats.recipe.pooling,
            precision=stats.precision,
            fingerprint=stats.recipe.fingerprint,
        )
        yield from queue_metrics(searcher.load, self._state.settings.max_queue)
        yield searches(searcher.tally.counts())
        yield from index_metrics(stats)
        yield from device_metrics(searcher.device_use())
        yield from job_metrics(service.jobs)


def admission_metrics(admission: Admission) -> Iterator[Metric]:
    """Requests with a body, which are let in up to a bound."""
    yield _gauge("cooc_requests_open", "Requests with a body that are let in.", len(admission))
    yield _gauge("cooc_requests_open_bytes", "Memory that they may hold.", admission.bytes_held)
    yield _gauge("cooc_draining", "1 while the service stops.", admission.draining)
    yield _counter("cooc_requests_accepted", "Requests with a body let in.", admission.accepted)
    yield _counter(
        "cooc_requests_refused", "Requests refused as there were too many.", admission.refused
    )
    abandoned = Counter(
        "cooc_requests_abandoned", "Requests that were let in and given up.", labels=["reason"]
    )
    abandoned.add_metric(["client_left"], admission.left)
    abandoned.add_metric(["slow_upload"], admission.late)
    yield abandoned


def queue_metrics(load: Load, limit: int) -> Iterator[Metric]:
    """The queue before the model. `limit`: searches that may wait."""
    waiting = Gauge("cooc_queue_images", "Images that wait for the model.", labels=["priority"])
    waiting.add_metric(["search"], load.waiting_searches)
    waiting.add_metric(["bulk"], load.waiting_bulk)
    yield waiting
    yield _gauge("cooc_queue_limit_images", "Images of searches that may wait.", limit)
    yield _gauge("cooc_queue_bytes", "Memory of the images that wait.", load.waiting_bytes)
    yield _gauge("cooc_queue_expected_images", "Images that are being decoded.", load.expected)
    yield _gauge("cooc_model_images", "Images that the model is working on.", load.in_hand)
    yield _counter("cooc_queue_accepted", "Images that came to the queue.", load.accepted)
    yield _counter("cooc_queue_refused", "Images that it had no room or time for.", load.refused)
    skipped = Counter(
        "cooc_queue_skipped",
        "Images that nobody waited for any more when it was their turn.",
        labels=["reason"],
    )
    skipped.add_metric(["deadline"], load.expired)
    skipped.add_metric(["client_left"], load.cancelled)
    yield skipped
    described = Counter("cooc_described", "Images through the model.", labels=["outcome"])
    described.add_metric(["done"], load.done)
    described.add_metric(["failed"], load.failed)
    yield described
    yield batch_sizes(load.batch_sizes)
    if load.seconds_each is not None:
        yield _gauge(
            "cooc_seconds_per_image",
            "Lately, of the model: all devices together.",
            load.seconds_each,
        )


def batch_sizes(counts: dict[int, int]) -> Metric:
    """A histogram of images per pass, from how many passes there were of each number."""
    buckets = [
        (str(float(most)), float(sum(n for size, n in counts.items() if size <= most)))
        for most in BATCHES
    ]
    buckets.append(("+Inf", float(sum(counts.values()))))
    total = sum(size * n for size, n in counts.items())
    return HistogramMetricFamily(
        "cooc_batch_images", "Images that shared a pass of the model.", buckets, total
    )


def searches(counts: dict[Outcome, int]) -> Metric:
    """All outcomes that there can be, those with none included."""
    family = Counter(
        "cooc_searches",
        "Searches by the match type of their best hit and by query expansion.",
        labels=["match_type", "query_expansion", "expanded"],
    )
    matches = [*(match.value for match in MatchType), NOTHING]
    for match, expansion, expanded in product(matches, Expansion, (False, True)):
        if expanded and expansion is Expansion.NONE:
            continue
        count = counts.get(Outcome(match, expansion.value, expanded), 0)
        family.add_metric([match, expansion.value, "yes" if expanded else "no"], count)
    return family


def index_metrics(stats: IndexStats) -> Iterator[Metric]:
    """The live index."""
    yield _gauge("cooc_index_images", "Images that are searched.", stats.count)
    yield _gauge("cooc_index_generation", "Number of the live generation.", stats.generation)
    yield _gauge("cooc_index_fitted_images", "Images it was built on.", stats.fitted)
    yield _gauge("cooc_index_unfitted_images", "Images that came since.", stats.fresh)
    yield _gauge("cooc_index_bytes", "Memory of vectors and codes.", stats.bytes)
    yield _gauge(
        "cooc_index_mapped_bytes",
        "Files of vectors that the system keeps in memory as they are used.",
        stats.mapped_bytes,
    )
    yield _gauge("cooc_index_recall", "Of the 10 nearest, what searches find.", stats.recall)
    yield _gauge("cooc_index_build_seconds", "Duration of the last build.", stats.build_seconds)
    if stats.built_at is not None:
        built = datetime.fromisoformat(stats.built_at).timestamp()
        yield _gauge("cooc_index_built_timestamp_seconds", "When that was.", built)


def device_metrics(used: list[DeviceUse]) -> Iterator[Metric]:
    """What describes; on GPUs with its memory."""
    devices = Gauge("cooc_device_info", "Devices that describe.", labels=["device", "type"])
    memory = Gauge(
        "cooc_device_memory_bytes",
        "Memory of GPUs: used and peak are that of this process.",
        labels=["device", "kind"],
    )
    for device in used:
        devices.add_metric([device.name, device.type], 1)
        for kind in ("used", "peak", "total"):
            size: int | None = getattr(device, kind)
            if size is not None:
                memory.add_metric([device.name, kind], size)
    yield devices
    yield memory


def job_metrics(jobs: Jobs) -> Iterator[Metric]:
    """Jobs that have not ended; none are told where their file cannot be read."""
    family = Gauge("cooc_jobs", "Jobs that have not ended.", labels=["type", "state"])
    try:
        counts = jobs.unfinished()
    except (EngineError, DBAPIError):
        return
    for type in get_args(JobType):
        family.add_metric([type, "queued"], counts[type, "queued"])
        family.add_metric([type, "running"], counts[type, "running"])
    yield family


def _free_bytes(state: State) -> float:
    try:
        return float(shutil.disk_usage(state.settings.data_dir).free)
    except OSError:
        return float("nan")


def _gauge(name: str, help: str, value: float) -> Metric:
    return Gauge(name, help, value=float(value))


def _counter(name: str, help: str, value: float) -> Metric:
    return Counter(name, help, value=float(value))


def _info(name: str, help: str, **labels: str) -> Metric:
    family = Gauge(name, help, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family
