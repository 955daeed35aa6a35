"""A real Chromium, spoken to over its DevTools protocol: what a page asks for, how wide it lies, how it looks."""

import base64
import io
import json
import subprocess
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from websockets.sync.client import ClientConnection, connect

from tests.conftest import CHROMIUM, free_port, wait_for

QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--hide-scrollbars")  # fmt: skip


@dataclass
class Seen:
    """What was seen of a page at one width."""

    requests: list[str] = field(default_factory=list)
    width: int = 0
    picture: Image.Image | None = None


def look(page: Path, profile: Path, widths: tuple[int, ...]) -> dict[int, Seen]:
    """Open a file at each width (pixels) and return what was seen."""
    port = free_port()
    command = [str(CHROMIUM), *QUIET, f"--remote-debugging-port={port}", f"--user-data-dir={profile}", "about:blank"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/json")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
            address = next(tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page")
        with connect(address, max_size=2**26) as tab:
            return {width: _look(tab, page, width) for width in widths}
    finally:
        browser.terminate()
        browser.wait()


def _look(tab: ClientConnection, page: Path, width: int) -> Seen:
    seen = Seen()
    screen = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
    for method, values in (("Page.enable", {}), ("Network.enable", {}),
                           ("Emulation.setDeviceMetricsOverride", screen)):  # fmt: skip
        _ask(tab, method, values, seen)
    _ask(tab, "Page.navigate", {"url": page.as_uri()}, seen, until="Page.loadEventFired")
    found = _ask(tab, "Runtime.evaluate", {"expression": "document.documentElement.scrollWidth"}, seen)
    seen.width = int(found["result"]["value"])
    shot = _ask(tab, "Page.captureScreenshot", {}, seen)["data"]
    seen.picture = Image.open(io.BytesIO(base64.b64decode(shot)))
    return seen


def _ask(tab: ClientConnection, method: str, values: dict[str, Any], seen: Seen, until: str = "") -> Any:
    """Send one command; return its answer, or wait for the event `until`; note every request on the way."""
    tab.send(json.dumps({"id": 1, "method": method, "params": values}))
    while True:
        message = json.loads(tab.recv(timeout=30))
        if message.get("method") == "Network.requestWillBeSent":
            seen.requests.append(message["params"]["request"]["url"])
        if message.get("method") == until or ("id" in message and not until):
            return message.get("result")
