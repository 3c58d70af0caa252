"""What every answer tells browsers."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    # No other site may show, or measure, the photos of this one.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=(), payment=(), usb=()",
    # For data, which runs nothing; pages have policies of their own.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
}
HTTPS_ONLY = {"Strict-Transport-Security": "max-age=31536000"}

PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The page loads its own files and shows photos that it was given (blob:); nothing inline runs."""


def headers_for(scope: Scope) -> dict[str, str]:
    """The headers of an answer that says nothing else."""
    return {**HEADERS, **HTTPS_ONLY} if scope.get("scheme") == "https" else HEADERS


class SecurityHeaders:
    """Adds them to all answers; what a route has set stays."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in headers_for(scope).items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)
