"""Whether keys are asked for, and whose key a request has."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.requests import HTTPConnection

from app.errors import (
    KeyRefused,
    KeyRequired,
    NotLocal,
    RequestProblem,
    ScopeMissing,
    TooManyAttempts,
)
from app.security.attempts import Attempts
from app.security.keys import Key, KeyFile, find_key
from app.security.local import is_loopback, why_not_local
from app.security.needs import cookie_for
from app.security.scopes import Scope, included
from app.settings import Settings
from engine.errors import EngineError, InvalidOption

log = logging.getLogger(__name__)

CREATE = "`cooc keys create NAME --scope admin`"


@dataclass(frozen=True)
class Caller:
    """Who asks: `key` is None for a stranger, and for everybody where no keys are asked for."""

    scopes: tuple[Scope, ...]
    key: Key | None = None
    refusal: Exception | None = None
    """Why nothing is allowed."""

    def check_known(self) -> None:
        """Raises KeyRequired, KeyRefused, TooManyAttempts, NotLocal, KeysUnreadable."""
        if self.refusal is not None:
            raise self.refusal

    def check(self, scope: Scope) -> None:
        """Raises ScopeMissing, and as `check_known` does."""
        self.check_known()
        if scope not in self.scopes:
            raise ScopeMissing(scope)


EVERYBODY = Caller(tuple(Scope))


class Access:
    """The rules of one service. Asked on the event loop: it waits for nothing but a small file."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._file = KeyFile(settings.data_dir)
        self._local = is_loopback(settings.host)
        self._attempts = Attempts()
        self._had_keys = False

    def required(self) -> bool:
        """Whether keys are asked for. Raises KeysUnreadable.

        A service that asked for them once does so until it ends, whatever becomes of the file.
        """
        if self._settings.require_keys == "auto" and self._local:
            self._had_keys = self._had_keys or bool(self._file.keys())
            return self._had_keys
        return self._settings.require_keys != "no"

    def check_start(self) -> None:
        """Say how open this service is. Raises InvalidOption where it would be of use to nobody, or
        to everybody; KeysUnreadable."""
        settings = self._settings
        if settings.require_keys == "no":
            log.warning(
                "COOC_REQUIRE_KEYS is no: whoever reaches %s can search, change and delete "
                "everything; let nobody reach it except through what guards it",
                settings.url,
            )
            return
        now = datetime.now(UTC)
        if any(key.state(now) == "active" for key in self._file.keys().values()):
            return
        if self.required():
            if self._local and settings.require_keys == "auto":
                log.warning("all keys have ended; nobody is let in until %s", CREATE)
                return
            why = "COOC_REQUIRE_KEYS is yes" if self._local else f"{settings.host} is not loopback"
            raise InvalidOption(
                f"{why} and there is no key: make one with {CREATE} "
                f"(--data-dir {settings.data_dir}), or set COOC_REQUIRE_KEYS=no if something else "
                "guards it"
            )
        if settings.root_path:
            log.warning(
                "COOC_ROOT_PATH says that a proxy serves this, and there are no keys: whoever "
                "reaches the proxy can do everything; make one with %s",
                CREATE,
            )

    def caller(self, request: HTTPConnection) -> Caller:
        """Who asks. Never raises: what speaks against the caller is in `refusal`."""
        try:
            if not self.required():
                return self._neighbour(request)
            presented = _presented(request)
            if presented is None:
                return Caller((), refusal=KeyRequired())
            key = self._known(presented, request)
        except (EngineError, RequestProblem) as refusal:
            return Caller((), refusal=refusal)
        return Caller(included(key.scopes), key)

    def allows(self, request: HTTPConnection, scope: Scope) -> bool:
        """Whether it still does: for answers that go on while keys are revoked and expire."""
        try:
            self.caller(request).check(scope)
        except (EngineError, RequestProblem):
            return False
        return True

    def sign_in(self, presented: str, request: HTTPConnection) -> Caller:
        """Whose key `presented` is. Raises KeyRefused, TooManyAttempts, KeysUnreadable."""
        if not self.required():
            return self._neighbour(request)
        key = self._known(presented, request)
        return Caller(included(key.scopes), key)

    def _neighbour(self, request: HTTPConnection) -> Caller:
        if self._settings.require_keys == "no":
            return EVERYBODY
        why = why_not_local(request.scope)
        return EVERYBODY if why is None else Caller((), refusal=NotLocal(why))

    def _known(self, presented: str, request: HTTPConnection) -> Key:
        key = find_key(self._file.keys(), presented)
        if key is None:
            address = request.client.host if request.client else "an unknown address"
            excess, wait_s = self._attempts.failed(address)
            if excess == 1:
                log.warning("%s keeps presenting keys that nobody has", address)
            if excess:
                raise TooManyAttempts(wait_s)
            raise KeyRefused("nobody has this key; `cooc keys list` shows those there are")
        # Whoever has the secret may know what became of it.
        state = key.state(datetime.now(UTC))
        if state != "active":
            raise KeyRefused(f"the key {key.id} is {state}; make another with `cooc keys create`")
        return key


def _presented(request: HTTPConnection) -> str | None:
    """The key of a request: of its headers before that of its cookie."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    # Another scheme is for a proxy in front.
    if scheme.lower() == "bearer":
        return credentials.strip()
    return request.headers.get("x-api-key") or request.cookies.get(cookie_for(request))
