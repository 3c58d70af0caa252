"""Swagger UI from the package: nothing is loaded from elsewhere, nothing unforeseen runs."""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

STATIC = "/static-offline-docs"
"""Where `fastapi_offline` serves the files of Swagger UI."""

_INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def docs_page(app: FastAPI, root: str) -> HTMLResponse:
    """`root` is the prefix under which a proxy serves this."""
    page = get_swagger_ui_html(
        openapi_url=f"{root}{app.openapi_url}",
        title=f"{app.title} - API",
        swagger_js_url=f"{root}{STATIC}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{STATIC}/swagger-ui.css",
        swagger_favicon_url=f"{root}{STATIC}/favicon.png",
    )
    page.headers["Content-Security-Policy"] = docs_policy(bytes(page.body))
    return page


def docs_policy(html: bytes) -> str:
    """Of the inline scripts only those that are in `html` run, known by their digests."""
    digests = (hashlib.sha256(script).digest() for script in _INLINE.findall(html))
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' {allowed}",
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
