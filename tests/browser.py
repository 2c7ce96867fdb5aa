"""A headless Chromium driven over its DevTools protocol: open a page, evaluate, drag the mouse, note every request."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from websocket import create_connection

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
STARTS_WITHIN_SECONDS = 60
ANSWERS_WITHIN_SECONDS = 120


def find_chromium() -> str | None:
    """Path of an installed Chromium."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def browser_tab(profile: Path, *, width: int = 1400, height: int = 1000) -> Iterator[Tab]:
    """A tab of a browser that is started with an empty ``profile`` folder and ended with the block."""
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-unsafe-swiftshader",  # WebGL without a GPU
        "--no-first-run",
        "--disable-background-networking",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        f"--window-size={width},{height}",
        "about:blank",
    ]
    process = subprocess.Popen(
        [find_chromium(), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        port, path = _port_and_path(profile / "DevToolsActivePort", process)
        socket = create_connection(
            f"ws://127.0.0.1:{port}{path}", timeout=ANSWERS_WITHIN_SECONDS, suppress_origin=True
        )
        try:
            yield Tab(socket)
        finally:
            socket.close()
    finally:
        process.terminate()
        process.wait(timeout=STARTS_WITHIN_SECONDS)


def _port_and_path(file: Path, process: subprocess.Popen) -> list[str]:
    """What Chromium writes when it listens: the port, and the path of the browser's own socket."""
    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if file.is_file() and len(lines := file.read_text().split()) == 2:
            return lines
        time.sleep(0.05)
    raise RuntimeError(f"Chromium did not listen within {STARTS_WITHIN_SECONDS} s")


class Tab:
    """One tab; ``requests`` are the addresses it asked for, ``errors`` what went wrong in its scripts."""

    def __init__(self, socket):
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._socket, self._number, self._session = socket, 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        """Answer of the browser; what it tells in the meantime is noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer.get("method"), answer.get("params", {}))

    def _note(self, event: str | None, about: dict) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif event == "Network.webSocketCreated":
            self.requests.append(about["url"])
        elif event == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href == {json.dumps(url)} && document.readyState == 'complete'")

    def evaluate(self, expression: str):
        """Value of a JavaScript expression, of its promise if it is one; RuntimeError where it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", expression))
        return answer["result"].get("value")

    def wait_for(self, expression: str, *, seconds: float = 60) -> None:
        """Wait until an expression counts as true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not true within {seconds:g} s: {expression}")
            time.sleep(0.1)

    def drag(self, start: tuple[float, float], by: tuple[float, float], *, steps: int = 10) -> None:
        """Drag with the left button, from ``start`` (x, y) in pixels of the window."""
        (x, y), button = start, {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, buttons=1, **button)
        for step in range(1, steps + 1):
            at = {"x": x + by[0] * step / steps, "y": y + by[1] * step / steps}
            self.call("Input.dispatchMouseEvent", type="mouseMoved", button="left", buttons=1, **at)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **at, **button)

    def screenshot(self, clip: dict | None = None) -> bytes:
        """PNG of the window, or of ``clip``: x, y, width, height in pixels of the page."""
        options = {"clip": {**clip, "scale": 1}, "captureBeyondViewport": True} if clip else {}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", **options)["data"])
