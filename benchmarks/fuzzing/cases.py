"""The cases in their order: which file goes to which address."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

from benchmarks.crashing.pictures import photo
from benchmarks.fuzzing.archives import ARCHIVES
from benchmarks.fuzzing.damage import DAMAGES
from benchmarks.fuzzing.lies import (
    PLAIN,
    Lie,
    jpeg_of_any_size,
    jpeg_of_many_scans,
    jpeg_with_extras,
)
from engine.images import decode
from engine.made.files import encoded

PUT_IDS = 8
ROUTES = {"/search": 9, "/images": 4, "/compare": 4, "/index/add": 3}
"""How often of 20."""


@dataclass(frozen=True)
class Case:
    """One request: files by the name of their field, and what they are, for people."""

    number: int
    method: str
    path: str
    files: tuple[tuple[str, tuple[str, bytes]], ...]
    what: str


def cases(seed: int, first: int, last: int) -> Iterator[Case]:
    """Those of these numbers: the same for the same seed, whatever else is asked for."""
    for number in range(first, last):
        yield _case(number, random.Random(f"{seed}/{number}"))


def _case(number: int, draw: random.Random) -> Case:
    route = draw.choices(list(ROUTES), list(ROUTES.values()))[0]
    what, data = _file(draw)
    name = draw.choice(("a.jpg", "a", "../a.png", "a\u00e9.gif", 'a".jpg', "a.zip"))
    if route == "/images":
        path = f"/images/fuzz/{draw.randrange(PUT_IDS)}"
        return Case(number, "PUT", path, (("image", (name, data)),), what)
    if route == "/compare":
        other, second = _file(draw) if draw.random() < 0.3 else ("good", photo(1))
        sides = [("image_a", (name, data)), ("image_b", (name, second))]
        if draw.random() < 0.5:
            sides = [("image_b", sides[0][1]), ("image_a", sides[1][1])]
        return Case(number, "POST", route, tuple(sides), f"{what}; {other}")
    if route == "/index/add":
        files = [("files", (f"fuzz/{number}-{name}", data))]
        if draw.random() < 0.7:
            build = draw.choice(ARCHIVES)
            packed, what = build(data or b"x", draw), f"{build.__name__} of {what}"
            if draw.random() < 0.3:
                harm = draw.choice(DAMAGES)
                packed, what = harm(packed, data or b"x", draw), f"{harm.__name__}: {what}"
            files.append(("files", ("a.zip", packed)))
        return Case(number, "POST", route, tuple(files), what)
    return Case(number, "POST", route, (("image", (name, data)),), what)


def _file(draw: random.Random) -> tuple[str, bytes]:
    """What the file is, and its bytes."""
    good = _good(draw.randrange(4))
    if draw.random() < 0.35:
        lies: dict[str, Lie] = {lie.__name__: lie for lie in PLAIN}
        lies["jpeg of any size"] = partial(jpeg_of_any_size, good["jpeg"])
        lies["jpeg of many scans"] = partial(jpeg_of_many_scans, good["jpeg progressive"])
        lies["jpeg with extras"] = partial(jpeg_with_extras, good["jpeg"])
        name = draw.choice(sorted(lies))
        return name, lies[name](draw)
    kind, other = draw.choice(sorted(good)), draw.choice(sorted(good))
    harm = draw.choice(DAMAGES)
    data = harm(good[kind], good[other], draw)
    what = f"{harm.__name__}: {kind}"
    if data and draw.random() < 0.2:
        harm = draw.choice(DAMAGES)
        data, what = harm(data, good[other], draw), f"{harm.__name__}: {what}"
    return what, data


@lru_cache(maxsize=8)
def _good(seed: int) -> Mapping[str, bytes]:
    return encoded(decode(photo(seed), max_side=512).pixels)
