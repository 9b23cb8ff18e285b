# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A headless Chromium, driven over a pipe by its DevTools protocol.

Protocol: https://chromedevtools.github.io/devtools-protocol/, one JSON object a message, each
ended by a zero byte, on file descriptors 3 (to the browser) and 4 (from it).
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errors import LabError

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable")
#: A page of a fleet is large, and the machine may be busy.
_PATIENCE_S = 180.0
_LONGEST_PICTURE = 12000


def find() -> str:
    """Return the browser's program.

    Raises:
        LabError: where there is none.
    """
    for name in _NAMES:
        path = shutil.which(name)
        if path:
            return path
    raise LabError("this machine has no Chromium; on Debian, apt-get install chromium")


@dataclass
class Seen:
    """What happened while a page was open.

    Attributes:
        requests: addresses that were asked for, the page's own first.
        messages: what the console said, and errors.
    """

    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


class Browser:
    """One browser with one tab; a context manager."""

    def __init__(self) -> None:
        self._program = find()
        self._profile = tempfile.mkdtemp(prefix="vnuma-browser-")
        self._process: subprocess.Popen[bytes] | None = None
        self._session = ""
        self._number = 0
        self._buffer = b""
        self._to = self._from = -1
        self.seen = Seen()

    def __enter__(self) -> Browser:
        """Start it."""
        read_end, self._to = os.pipe()
        self._from, write_end = os.pipe()
        # The shell hands the pipes on under the numbers that the browser wants.
        script = f'exec "$0" "$@" 3<&{read_end} 4>&{write_end}'
        self._process = subprocess.Popen(
            [
                *("/bin/bash", "-c", script, self._program),
                *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"),
                *("--no-first-run", "--disable-extensions", "--disable-background-networking"),
                *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
                *("--disable-dev-shm-usage", "--force-color-profile=srgb"),
                *(f"--user-data-dir={self._profile}", "about:blank"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(Path(self._profile) / "stderr").open("wb"),
            pass_fds=(read_end, write_end),
        )
        os.close(read_end)
        os.close(write_end)
        try:
            target = self._call("Target.createTarget", {"url": "about:blank"}, session="")
            attached = self._call(
                "Target.attachToTarget",
                {"targetId": target["targetId"], "flatten": True},
                session="",
            )
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self._call(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        os.close(self._to)
        os.close(self._from)
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    def look(self, width: int, height: int, *, dark: bool) -> None:
        """Set the size of the window and the choice of light or dark."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        value = "dark" if dark else "light"
        self._call(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": value}]},
        )

    def open(self, page: Path) -> Seen:
        """Open a file, wait until it is loaded, and return what happened."""
        self.seen = Seen()
        self._call("Page.navigate", {"url": page.resolve().as_uri()})
        deadline = time.monotonic() + _PATIENCE_S
        while self.run("document.readyState + ' ' + location.protocol") != "complete file:":
            if time.monotonic() > deadline:
                raise LabError(f"{page} was not loaded in {_PATIENCE_S:.0f} s")
            time.sleep(0.05)
        return self.seen

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self._call(
            "Runtime.evaluate", {"expression": script, "returnByValue": True, "awaitPromise": True}
        )
        if "exceptionDetails" in answer:
            raise LabError(f"the script failed: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, as the keyboard does; such as ``Tab`` or ``Enter``."""
        code = {"Tab": 9, "Enter": 13}[key]
        more = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent",
                {
                    "type": kind,
                    "key": key,
                    "code": key,
                    "windowsVirtualKeyCode": code,
                    **(more if kind == "keyDown" else {}),
                },
            )

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write a screenshot, of the whole page or of the window."""
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {
            "x": 0,
            "y": 0,
            "width": size["width"],
            "height": min(size["height"], _LONGEST_PICTURE),
            "scale": 1,
        }
        more: Mapping[str, Any] = {"captureBeyondViewport": True, "clip": clip} if whole else {}
        answer = self._call("Page.captureScreenshot", {"format": "png", **more})
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def printed(self, path: Path) -> None:
        """Write the page as it is printed."""
        answer = self._call("Page.printToPDF", {"printBackground": True})
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _call(
        self, method: str, parameters: Mapping[str, Any] | None = None, session: str | None = None
    ) -> Any:
        """Call a method and return its result; events that come meanwhile are noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters or {}}
        session = self._session if session is None else session
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            answer = self._message(deadline)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise LabError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready = select.select([self._from], [], [], max(0, deadline - time.monotonic()))[0]
            data = os.read(self._from, 1 << 20) if ready else b""
            if not data:
                said = (Path(self._profile) / "stderr").read_text(errors="replace")
                raise LabError(f"the browser does not answer: {said[-2000:]}")
            self._buffer += data
        first, _zero, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(first)
        return found

    def _note(self, event: str, about: Mapping[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.seen.requests.append(about["request"]["url"])
        elif event == "Runtime.consoleAPICalled":
            self.seen.messages.append(f"{about['type']}: {about['args']}")
        elif event == "Runtime.exceptionThrown":
            self.seen.messages.append(str(about["exceptionDetails"]))
        elif event == "Log.entryAdded":
            self.seen.messages.append(f"{about['entry']['level']}: {about['entry']['text']}")
