"""A real Chromium, spoken to over its DevTools protocol: what a page asks for, how wide it lies, how it looks."""

import base64
import io
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from websockets.sync.client import ClientConnection, connect

from tests.conftest import AXE, CHROMIUM, free_port, wait_for

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
)
HEIGHTS = {390: 844, 1280: 800}  # a telephone's screen, and a small desk's


@dataclass
class Tab:
    """One tab of a browser; `requests` are the addresses that its page asked for."""

    connection: ClientConnection
    requests: list[str] = field(default_factory=list)

    def screen(self, width: int, scheme: str = "light", media: str = "screen") -> None:
        """Set the width in CSS pixels, the reader's colour scheme and the medium; before or after `open`."""
        size = {"width": width, "height": HEIGHTS.get(width, 1000), "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        wanted = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", media=media, features=wanted)

    def open(self, page: Path) -> None:
        """Open a file and wait until it has loaded."""
        self.ask("Page.enable")
        self.ask("Network.enable")
        self.ask("Page.navigate", until="Page.loadEventFired", url=page.as_uri())

    def evaluate(self, expression: str) -> Any:
        """Return the JSON value of a JavaScript expression; waits where it is a promise."""
        found = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def asked_for(self, page: Path) -> list[str]:
        """Open a file and return the addresses that it asked for, apart from itself and what it brings along."""
        self.requests.clear()
        self.open(page)
        return [url for url in self.requests if url != page.as_uri() and not url.startswith("data:")]

    def barriers(self) -> list[Any]:
        """Return what axe-core finds to keep a reader out of the open page: (impact, rule, first element) each."""
        self.evaluate(AXE.read_text(encoding="utf-8") + ";0")
        told = self.evaluate(
            "axe.run().then(t => [t.passes.length, t.violations.map(v => [v.impact, v.id, v.nodes[0].html])])"
        )
        assert told[0] > 10, "axe looked at nothing"
        return list(told[1])

    def picture(self, whole: bool = False) -> Image.Image:
        """Return what is on the screen, or the whole page."""
        shot = self.ask(
            "Page.captureScreenshot", captureBeyondViewport=whole, **({"clip": self._all()} if whole else {})
        )
        return Image.open(io.BytesIO(base64.b64decode(shot["data"])))

    def pdf(self) -> bytes:
        """Print the page on A4."""
        return base64.b64decode(self.ask("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"])

    def press(self, key: str, code: int) -> None:
        """Press a key, as `KeyboardEvent.key` names it, with its Windows code."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def ask(self, method: str, until: str = "", **values: Any) -> Any:
        """Send one command; return its answer, or wait for the event `until`; note every request on the way."""
        self.connection.send(json.dumps({"id": 1, "method": method, "params": values}))
        while True:
            message = json.loads(self.connection.recv(timeout=30))
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("method") == until or ("id" in message and not until):
                assert "error" not in message, message
                return message.get("result")

    def _all(self) -> dict[str, float]:
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """Start a browser with a folder for its state; yield its tab."""
    port = free_port()
    command = [str(CHROMIUM), *QUIET, f"--remote-debugging-port={port}", f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/json")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
            address = next(tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page")
        with connect(address, max_size=2**27) as connection:
            yield Tab(connection)
    finally:
        process.terminate()
        process.wait()


@dataclass
class Seen:
    """What was seen of a page at one width."""

    requests: list[str]
    width: int
    picture: Image.Image


def look(page: Path, profile: Path, widths: tuple[int, ...]) -> dict[int, Seen]:
    """Open a file at each width (pixels) and return what was seen."""
    found = {}
    with browser(profile) as tab:
        for width in widths:
            tab.requests.clear()
            tab.screen(width)
            tab.open(page)
            wide = int(tab.evaluate("document.documentElement.scrollWidth"))
            found[width] = Seen(list(tab.requests), wide, tab.picture())
    return found
