"""What the clients know for certain of a collection, whatever happens to the service."""

from __future__ import annotations

import hashlib
import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.crashing.pictures import photo


@dataclass(frozen=True)
class Stored:
    """An image: the digest of its file, its metadata, and the seed of its picture, where known."""

    digest: str
    metadata: dict[str, Any]
    seed: int = field(default=-1, compare=False)

    @classmethod
    def sent(cls, seed: int, metadata: dict[str, Any]) -> Stored:
        """As a client sends it."""
        return cls(hashlib.sha256(photo(seed)).hexdigest(), metadata, seed)


Outcome = Stored | None
"""None: nothing is stored under the id."""


@dataclass
class _Entry:
    """`certain` was acknowledged; each of `perhaps` was asked for since, without an answer."""

    certain: Outcome = None
    perhaps: list[Outcome] = field(default_factory=list)
    version: int = 0


class Ledger:
    """One entry for each id that was ever used. Methods may be called from several threads.

    Each id has one writer at a time: `begin` before the request, then `settle` with the answer.
    What never got an answer stays in doubt until `resolve` is told what was found.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._seed = 0
        self.asked: Counter[str] = Counter()
        self.acknowledged: Counter[str] = Counter()
        self.unexpected: list[str] = []
        # Bulk jobs and builds that were acknowledged and whose end nobody has seen yet.
        self.jobs: dict[str, list[str]] = {}

    def new_seed(self) -> int:
        with self._lock:
            self._seed += 1
            return self._seed

    def copy(self) -> Ledger:
        """What is known now; it goes on apart from this one."""
        other = Ledger()
        with self._lock:
            other._seed = self._seed
            other._entries = {
                image_id: _Entry(entry.certain, list(entry.perhaps), entry.version)
                for image_id, entry in self._entries.items()
            }
            other.jobs = {job_url: list(ids) for job_url, ids in self.jobs.items()}
        return other

    # --- writing --------------------------------------------------------------------------

    def begin(self, kind: str, changes: dict[str, Outcome]) -> None:
        """Something is about to be asked for that may change these ids to these outcomes."""
        with self._lock:
            self.asked[kind] += 1
            for image_id, outcome in changes.items():
                entry = self._entries.setdefault(image_id, _Entry())
                entry.perhaps.append(outcome)
                entry.version += 1

    def settle(self, kind: str, ids: Sequence[str], *, done: bool) -> None:
        """The answer to what was begun: it was done and is durable, or was refused."""
        with self._lock:
            if done:
                self.acknowledged[kind] += 1
            for image_id in ids:
                entry = self._entries[image_id]
                if done:
                    entry.certain = entry.perhaps[-1]
                entry.perhaps.clear()
                entry.version += 1

    def accept(self, kind: str, job_url: str, ids: Sequence[str]) -> None:
        """A job was accepted: its images are there once it has ended."""
        with self._lock:
            self.acknowledged[kind] += 1
            self.jobs[job_url] = list(ids)

    def finish(self, job_url: str) -> None:
        """A job was seen to have ended well: what it was to store is certain now."""
        with self._lock:
            for image_id in self.jobs.pop(job_url):
                entry = self._entries[image_id]
                if entry.perhaps:
                    entry.certain = entry.perhaps[-1]
                    entry.perhaps.clear()
                    entry.version += 1

    def resolve(self, image_id: str, found: Outcome) -> bool:
        """Take over what was found of an id in doubt; False if it can be neither old nor new."""
        with self._lock:
            entry = self._entries[image_id]
            choices = [choice for choice in (entry.certain, *entry.perhaps) if choice == found]
            possible = bool(choices)
            # As it was sent: with the seed of its picture.
            entry.certain = choices[0] if possible else found
            entry.perhaps.clear()
            entry.version += 1
            return possible

    def complain(self, text: str) -> None:
        """An answer that the service should never have given."""
        with self._lock:
            self.unexpected.append(text)

    # --- reading --------------------------------------------------------------------------

    def doubtful(self) -> list[str]:
        """Ids whose last request got no answer; those of a job that is at work are not meant."""
        with self._lock:
            promised = {image_id for ids in self.jobs.values() for image_id in ids}
            return [
                image_id
                for image_id, entry in self._entries.items()
                if entry.perhaps and image_id not in promised
            ]

    def live(self) -> dict[str, Stored]:
        """Everything that has to be there."""
        with self._lock:
            return {
                image_id: entry.certain
                for image_id, entry in self._entries.items()
                if entry.certain is not None
            }

    def gone(self) -> list[str]:
        """Ids under which nothing may be found, in the order in which they were first used."""
        with self._lock:
            return [
                image_id
                for image_id, entry in self._entries.items()
                if entry.certain is None and not entry.perhaps
            ]

    def versions(self) -> dict[str, tuple[int, bool]]:
        """Of each id that is not in doubt: a number that grows with every change, and presence."""
        with self._lock:
            return {
                image_id: (entry.version, entry.certain is not None)
                for image_id, entry in self._entries.items()
                if not entry.perhaps
            }

    def pick(self, draw: random.Random, owner: int, owners: int) -> tuple[str, Stored] | None:
        """One stored image that this owner may change; None if it has none."""
        with self._lock:
            own = [
                (image_id, entry.certain)
                for image_id, entry in self._entries.items()
                if entry.certain is not None
                and not entry.perhaps
                and sum(image_id.encode()) % owners == owner
            ]
        return draw.choice(own) if own else None
