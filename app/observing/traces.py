"""Whether requests and jobs are traced: decided by the standard variables of OpenTelemetry."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.observing.otel import Traces

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"


def traces_from_environment() -> Traces | None:
    """None where nobody asked for traces, or they cannot be had: that is logged."""
    endpoint = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if endpoint is None or exporter == "none" or disabled:
        return None
    protocol = next((os.environ[name] for name in PROTOCOLS if os.environ.get(name)), PROTOCOL)
    if (exporter, protocol) != ("otlp", PROTOCOL):
        log.warning(
            "nothing is traced: traces are sent with OTEL_TRACES_EXPORTER=otlp and "
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf only, not %s and %s",
            exporter,
            protocol,
        )
        return None
    try:
        from app.observing.otel import Traces, provider_from_environment
    except ImportError as error:
        log.warning(
            "%s is set, but nothing is traced as %s is not installed: "
            "pip install 'cooc-image-search[otel]'",
            endpoint,
            error.name,
        )
        return None
    log.info("traces are sent to %s", os.environ[endpoint].split("?")[0].rpartition("@")[2])
    return Traces(provider_from_environment())
