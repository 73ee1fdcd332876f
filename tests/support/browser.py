# SPDX-License-Identifier: GPL-3.0-or-later
"""Headless Chromium over its own pipe (the DevTools protocol): opens a file, and is asked what is on the page.

    with opened_page(page) as tab:
        tab.evaluate("document.title")

Requests of the page are counted, whatever becomes of them; there is no network in the browser's namespace.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_SECONDS = 60
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-crash-reporter",
    "--remote-debugging-pipe", "--window-size=1280,1000",
)  # fmt: skip


class Tab:
    """The one page."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._number = 0
        self._session: str | None = None
        self._rest = b""
        self.events: list[dict[str, Any]] = []

    def open(self, page: Path) -> None:
        """Opens `page` and waits until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=page.as_uri())
        while not self.seen("Page.loadEventFired"):
            self._receive()

    def seen(self, method: str) -> list[dict[str, Any]]:
        """The parameters of every event `method` so far."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def evaluate(self, code: str) -> Any:
        """The value of `code`, promises awaited."""
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The page as a picture."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "result" in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + _SECONDS
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], max(0, end - time.monotonic()))[0], "the browser is silent"
            piece = os.read(self._answers, 1 << 20)
            assert piece, "the browser has ended"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        if "method" in found:
            self.events.append(found)
        return found


@contextlib.contextmanager
def opened_page(page: Path) -> Iterator[Tab]:
    """`page` in a browser of its own, without a network; its files are gone in the end."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("this machine has no chromium")
    command_end, commands = os.pipe()
    answers, answer_end = os.pipe()
    shell = 'exec "$@" 3<&"$FROM" 4>&"$TO"'
    home = tempfile.mkdtemp(prefix="browser-")  # its sockets' names may have 107 bytes: below tmp_path they have more
    words = ("unshare", "-n", "-p", "-f", "--kill-child", "bash", "-c", shell, "bash", chromium, *_OPTIONS)
    browser = subprocess.Popen(
        [*words, f"--user-data-dir={home}/data"],
        env={"PATH": "/usr/bin:/bin", "HOME": home, "TMPDIR": home, "FROM": str(command_end), "TO": str(answer_end)},
        pass_fds=(command_end, answer_end),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(command_end)
    os.close(answer_end)
    try:
        tab = Tab(commands, answers)
        tab.open(page)
        yield tab
    finally:
        os.close(commands)
        browser.kill()  # with it goes its pid namespace
        browser.wait()
        os.close(answers)
        shutil.rmtree(home, ignore_errors=True)
