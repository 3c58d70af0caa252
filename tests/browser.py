"""Chromium, driven through a pipe by its DevTools protocol; tests skip where there is none."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
        if (found := shutil.which(name)) is not None
    ),
    None,
)
OPTIONS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--remote-debugging-pipe",
]
WAIT_S = 120.0
READY = "document.querySelector('#main')?.dataset.ready === 'yes'"
SETTLED = "[...document.images].every((image) => image.complete || image.loading === 'lazy')"
"""A picture that is still to come moves what is below it, away from the pointer."""
NETWORK_CHANGED = "ERR_NETWORK_CHANGED"
"""When the machine gets or loses an address of any network, Chromium breaks off all requests."""
MODIFIERS = {"Alt": 1, "Control": 2, "Meta": 4, "Shift": 8}
KEYS = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    " ": 32,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}


class Browser:
    """One process; each page has cookies and storage of its own."""

    def __init__(self, profile: Path) -> None:
        assert PROGRAM is not None, "there is no Chromium; skip such tests"
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # It reads from 3 and writes to 4, which may be in use here.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_read, to_write)]
        os.close(to_read)
        os.close(to_write)
        log = os.open(profile.parent / "chromium.log", os.O_CREAT | os.O_WRONLY)
        self._process = os.posix_spawn(
            PROGRAM,
            [PROGRAM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, ends[0], 3),
                (os.POSIX_SPAWN_DUP2, ends[1], 4),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
        )
        for end in (*ends, log):
            os.close(end)
        self._number = 0
        self._buffer = b""
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Raises AssertionError with what the browser says against it."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + WAIT_S
        while number not in self._answers:
            self.listen(deadline - time.monotonic())
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def listen(self, seconds: float) -> None:
        """Take in what the browser has to say."""
        ready, _, _ = select.select([self._read], [], [], max(0.0, seconds))
        assert ready, "the browser does not answer"
        heard = os.read(self._read, 1 << 20)
        assert heard, "the browser has ended"
        self._buffer += heard
        *messages, self._buffer = self._buffer.split(b"\0")
        for text in messages:
            message = json.loads(text)
            if "id" in message:
                self._answers[message["id"]] = message
            elif (page := self._pages.get(message.get("sessionId", ""))) is not None:
                page.hear(message["method"], message["params"])

    def page(self, width: int = 1280, height: int = 900) -> Page:
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        target_id = target["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target_id, flatten=True)
        page = Page(self, attached["sessionId"], target_id)
        self._pages[attached["sessionId"]] = page
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        return page

    def close(self) -> None:
        os.kill(self._process, signal.SIGTERM)
        os.waitpid(self._process, 0)
        os.close(self._read)
        os.close(self._write)


class Page:
    """A tab. `errors` has what its console complained of, `requests` all that it asked for."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target
        self.errors: list[str] = []
        self._network_changed = False
        self.requests: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def hear(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(json.dumps(params["args"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            entry = params["entry"]
            if NETWORK_CHANGED in entry["text"]:
                self._network_changed = True
            else:
                self.errors.append(f"{entry['text']} {entry.get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    def prefer(self, **features: str) -> None:
        """What its visitor prefers: `prefers_color_scheme="dark"`."""
        entries = [
            {"name": name.replace("_", "-"), "value": value} for name, value in features.items()
        ]
        self.call("Emulation.setEmulatedMedia", features=entries)

    def goto(self, url: str) -> None:
        """Open the page of the service and wait until it has asked about the service."""
        deadline = time.monotonic() + WAIT_S
        self._network_changed = True
        while not self.evaluate(READY) or self._network_changed:
            if self._network_changed:
                self._network_changed = False
                self.call("Page.navigate", url=url)
            assert time.monotonic() < deadline, f"{url} is not ready: {self.errors}"
            time.sleep(0.03)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are waited for."""
        answer = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = WAIT_S) -> None:
        """Wait until an expression is true, as JavaScript understands it."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({expression})"):
            said = f"{self.errors} {self.text('#alerts')}"
            assert time.monotonic() < deadline, f"still not: {expression}; {said}"
            time.sleep(0.03)

    def text(self, selector: str) -> str:
        """What can be seen of an element's text."""
        return str(
            self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
        )

    def count(self, selector: str) -> int:
        return int(self.evaluate(f"document.querySelectorAll({json.dumps(selector)}).length"))

    def is_seen(self, selector: str) -> bool:
        query = json.dumps(selector)
        return bool(self.evaluate(f"document.querySelector({query})?.checkVisibility() ?? false"))

    def click(self, selector: str) -> None:
        """With the pointer, in the middle of what is there once it can be seen."""
        query = json.dumps(selector)
        self.wait(f"document.querySelector({query})?.checkVisibility() && {SETTLED}")
        self.evaluate(f"document.querySelector({query}).scrollIntoView({{block: 'center'}})")
        x, y = self.evaluate(
            f"(({{left, top, width, height}}) => [left + width / 2, top + height / 2])"
            f"(document.querySelector({query}).getBoundingClientRect())"
        )
        self.drag((x, y), (x, y))

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the pointer at `start`, let go at `end`; pixels of the window."""
        self._pointer("mouseMoved", start)
        self._pointer("mousePressed", start)
        if start != end:
            self._pointer("mouseMoved", end)
        self._pointer("mouseReleased", end)

    def _pointer(self, kind: str, at: tuple[float, float]) -> None:
        button = "none" if kind == "mouseMoved" else "left"
        self.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=at[0],
            y=at[1],
            button=button,
            clickCount=0 if kind == "mouseMoved" else 1,
        )

    def press(self, key: str, *modifiers: str) -> None:
        """A key such as `Tab`, `ArrowLeft`, or a letter."""
        code = KEYS.get(key, ord(key[0].upper()))
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        flags = sum(MODIFIERS[name] for name in modifiers)
        common = {"key": key, "windowsVirtualKeyCode": code, "modifiers": flags}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def fill(self, selector: str, text: str) -> None:
        """Put `text` in the place of what a field has."""
        self.evaluate(
            f"((field) => {{ field.focus(); field.select(); }})"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        self.type(text)

    def upload(self, selector: str, *files: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def focused(self) -> str:
        """Id of what has the focus, else its class."""
        return str(
            self.evaluate("document.activeElement.id || document.activeElement.className || ''")
        )

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    browser = Browser(folder / "profile")
    try:
        yield browser
    finally:
        browser.close()
