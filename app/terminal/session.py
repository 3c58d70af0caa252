"""Either the index of a folder, opened here, or the service that already owns it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from app.assembly import open_searcher
from app.settings import Settings
from app.terminal import console
from app.terminal.client import Client
from engine.errors import DataFolderInUse
from engine.searcher import Searcher


@dataclass(frozen=True)
class Target:
    """Where a command does its work: `client` is set if a service does it."""

    client: Client | None
    _searcher: Searcher | None

    @property
    def searcher(self) -> Searcher:
        assert self._searcher is not None, "ask for the searcher only without a client"
        return self._searcher


@contextmanager
def session(settings: Settings, url: str | None) -> Iterator[Target]:
    """Open the data folder, or the service at `url`, or the service that holds the folder.

    Raises: DataFolderInUse if another command, not a service, holds it.
    """
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    if url is not None:
        with closing(Client(url, key)) as client:
            yield Target(client, None)
        return
    console.log_to_stderr()
    try:
        with console.late_progress_bar("downloading weights") as report:
            opened = open_searcher(settings, progress=report)
    except DataFolderInUse as error:
        if error.url is None:
            raise
        console.err.print(f"the service at {error.url} holds this index; it does the work")
        with closing(Client(error.url, key)) as client:
            yield Target(client, None)
        return
    try:
        yield Target(None, opened.searcher)
    finally:
        opened.close()
