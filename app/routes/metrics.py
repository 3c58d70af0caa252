"""What is counted, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from app.deps import StateDep
from app.security.needs import needs
from app.security.scopes import Scope

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    dependencies=[needs(Scope.ADMIN)],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}},
)
def metrics(request: Request, state: StateDep) -> Response:
    """Metrics in the format of Prometheus, or of OpenMetrics if that is asked for.

    Answers even when the index cannot be used.
    """
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(state.metrics.registry), headers={"Content-Type": media_type})
