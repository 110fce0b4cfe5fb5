"""The machine's own Chromium, and what is noticed while a page is looked at."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.e2e import servers

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
"""A browser that runs as root in a container, and calls nobody of its own accord."""


@dataclass
class Seen:
    """A page, and what was noticed while it was looked at."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    answers: str | None = None
    """What is typed into a `prompt`; None: what stands there."""

    def eventually(self, expression: str, arg: Any = None, seconds: float = 30) -> None:
        """Wait until an expression holds in the page. Playwright's own wait asks by ``eval`` there after its first
        try, which our policy forbids; ``evaluate`` asks from outside."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(expression, arg):
            assert time.monotonic() < end, f"not so within {seconds} s: {expression}"
            self.page.wait_for_timeout(50)

    def strangers(self, home: str) -> set[str]:
        """What was asked of anybody but us."""
        return {url for url in self.asked if not url.startswith((home, "data:"))}


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if binary is None:
        servers.lacking("no browser: install Debian's chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=binary, args=list(QUIET))
        yield running
        running.close()


@contextlib.contextmanager
def looked_at(browser: Any, **context: Any) -> Iterator[Seen]:
    """A fresh browser profile with one page; questions that it asks (`confirm`) are answered with yes."""
    opened = browser.new_context(**context)
    found = Seen(opened.new_page())
    found.page.on("console", lambda said: said.type in ("error", "warning") and found.complaints.append(said.text))
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.page.on("request", lambda request: found.asked.append(request.url))

    def answer(dialog: Any) -> None:
        found.dialogs.append(dialog.message)
        dialog.accept(found.answers or dialog.default_value)

    found.page.on("dialog", answer)
    yield found
    opened.close()
