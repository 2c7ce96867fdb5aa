"""Control a headless Chromium through the DevTools protocol: open a page, evaluate, drag and record requests."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from websocket import create_connection

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",  # WebGL without a GPU
    "--disable-background-networking",
    "--remote-debugging-port=0",
    "--window-size=1400,1000",
)
TIMEOUT_S = 120


def find_chromium() -> str | None:
    """Return the path to an installed Chromium."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def browser_tab(profile: Path) -> Iterator[Tab]:
    """Start a browser with an empty ``profile`` folder and yield one tab."""
    command = [find_chromium(), *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address, deadline = profile / "DevToolsActivePort", time.monotonic() + TIMEOUT_S
        while not (address.is_file() and len(address.read_text().split()) == 2):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError("Chromium did not open its debugging port")
            time.sleep(0.05)
        port, path = address.read_text().split()
        url = f"ws://127.0.0.1:{port}{path}"
        with closing(create_connection(url, timeout=TIMEOUT_S, suppress_origin=True)) as socket:
            yield Tab(socket)
    finally:
        process.terminate()
        process.wait(timeout=TIMEOUT_S)


class Tab:
    """One browser tab; ``requests`` lists the requested addresses, and ``errors`` lists script errors."""

    def __init__(self, socket):
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._socket, self._number, self._session = socket, 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        """Send a command, record events until the reply arrives, and return the reply."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        while (answer := json.loads(self._socket.recv())).get("id") != self._number:
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            elif answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(answer["params"]["exceptionDetails"]))
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href == {json.dumps(url)} && document.readyState == 'complete'")

    def evaluate(self, expression: str):
        """Return the value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait_for(self, expression: str, *, seconds: float = 90) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not true within {seconds:g} s: {expression}")
            time.sleep(0.02)

    def drag(self, start: tuple[float, float], by: tuple[float, float], *, steps: int = 10) -> None:
        """Drag with the left mouse button from ``start`` (x, y), in window pixels."""
        (x, y), button = start, {"button": "left", "buttons": 1, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, **button)
        for step in range(1, steps + 1):
            at = {"x": x + by[0] * step / steps, "y": y + by[1] * step / steps}
            self.call("Input.dispatchMouseEvent", type="mouseMoved", button="left", buttons=1, **at)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **at, **button)
