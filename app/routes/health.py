"""Is it alive, is it ready, what is it."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Request

from app import __version__
from app.deps import StateDep, get_service
from app.schemas import AcceptsOut, HealthOut, LearnedOut, VersionOut, WeightsOut
from app.security.needs import ANYBODY, needs
from app.security.scopes import Scope
from app.settings import Settings
from engine.errors import CorruptIndex, IndexMismatch, WeightsUnavailable
from engine.searcher import Searcher

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])


NOT_READY = "the index cannot be used; the log of the service says why, and this address to keys"
"""What strangers are told: the reason names files."""


# Monitors ask by HEAD.
@router.head("/livez", dependencies=[ANYBODY], include_in_schema=False)
@router.get("/livez", dependencies=[ANYBODY])
async def livez() -> HealthOut:  # on the event loop: it must answer while every thread is busy
    """The process answers."""
    return HealthOut(status="ok")


@router.head("/readyz", dependencies=[ANYBODY], include_in_schema=False)
@router.get("/readyz", dependencies=[ANYBODY])
def readyz(request: Request) -> HealthOut:
    """Model loaded, index consistent and made with this recipe; else a problem document."""
    try:
        get_service(request).readiness.check()
    except (CorruptIndex, IndexMismatch, WeightsUnavailable) as error:
        if request.scope["caller"].refusal is None:
            raise
        log.error("not ready: %s", error)
        raise type(error)(NOT_READY) from error
    return HealthOut(status="ok")


@router.get("/version", dependencies=[needs(Scope.SEARCH)])
def version(state: StateDep) -> VersionOut:
    """Versions, weights and recipe. Answers even when the index cannot be used."""
    service = state.service
    weights = service.weights if service else None
    searcher = service.searcher if service else None
    return VersionOut(
        name="co-occurrence image search",
        version=__version__,
        weights=WeightsOut.of(weights) if weights else None,
        backbone=searcher.recipe.backbone if searcher else None,
        pooling=searcher.recipe.pooling if searcher else None,
        cooccurrence=LearnedOut.of(service.learned.cooccurrence) if service else None,
        projection=LearnedOut.of(service.learned.projection) if service else None,
        fingerprint=searcher.recipe.fingerprint if searcher else None,
        device=_devices(searcher) if searcher else None,
        precision=searcher.describer.precision if searcher else None,
        accepts=_accepts(state.settings),
    )


def _accepts(settings: Settings) -> AcceptsOut:
    return AcceptsOut(
        urls=bool(settings.url_allow),
        originals=settings.keep_originals,
        max_upload_mb=settings.max_upload_mb,
        max_bulk_mb=settings.max_bulk_mb,
    )


def _devices(searcher: Searcher) -> str:
    return ",".join(str(describer.device) for describer in searcher.describers)
