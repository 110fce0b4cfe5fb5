"""Somebody who looks at the administrators' pages in a real browser, and what every page has to be.

``ADMIN_SCREENSHOTS=folder`` keeps a picture of each page.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.e2e import servers
from tests.e2e.browsers import Seen, looked_at
from tests.people import PASSWORD

WIDTHS = {"wide": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
SCHEMES = ("light", "dark")
LOOKS = [
    pytest.param({"viewport": WIDTHS[width], "color_scheme": scheme}, id=f"{width}-{scheme}")
    for width, scheme in itertools.product(WIDTHS, SCHEMES)
]
"""As `browsers.looked_at` takes them: two widths, each in both colour schemes."""
RULES = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
OF_COLOURS = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
"""Those of `RULES` that look at colours: all that can differ where a page of the light look is dark."""
PAYLOAD = '"><img src=x onerror=alert(1)><script>alert(1)</script><link rel=stylesheet href=//evil.example/x.css>'


FIRST_PAGE = "/admin/overview"
"""Where one comes to after the sign-in."""


@dataclass
class Administrator:
    """Somebody who looks at the pages of a gateway."""

    gateway: servers.Gateway
    seen: Seen

    @property
    def page(self) -> Any:
        return self.seen.page

    def goes(self, name: str) -> None:
        self.page.goto(f"{self.gateway.url}/admin/{name}")

    def signs_in(self, name: str = "root") -> None:
        """An account has ten tries a minute, so not everybody is `root`."""
        self.goes("sign-in")
        self.page.fill("#f-username", name)
        self.page.fill("#f-password", PASSWORD)
        self.page.click("main button")
        self.page.wait_for_url(self.gateway.url + FIRST_PAGE)

    def finds_it_sound(self, name: str, *, refused: bool = False) -> None:
        """No rule of accessibility is broken, nothing sticks out, nothing was complained of, nobody else was asked.

        ``refused``: something was refused on the way here, of which the browser tells.
        """
        self.keeps_picture(name)
        self.breaks_no_rule(name)
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} sticks out"
        heard = [one for one in self.seen.complaints if not (refused and "status of 40" in one)]
        assert heard == [], f"{name}: {heard}"
        assert self.seen.strangers(self.gateway.url) == set()

    def breaks_no_rule(self, name: str) -> None:
        """Of accessibility. Whoever looks at a page in the dark looks at it in the light too: `LOOKS`."""
        rules = OF_COLOURS if self.is_dark else RULES
        options = {"runOnly": rules, "resultTypes": ["violations"]}  # of what is in order, only the rules' names
        found = Axe().run(self.page, options=options).response
        told = [(each["id"], node["html"]) for each in found["violations"] for node in each["nodes"]]
        assert told == [], f"{name}: {told}"
        passed = {each["id"] for each in found["passes"]}
        assert "color-contrast" in passed
        assert self.is_dark or len(passed) > 10

    @property
    def is_dark(self) -> bool:
        return bool(self.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches"))

    def finds_all_sound(self, names: Iterable[str]) -> None:
        """Each is a page's address after ``/admin/``; its link in the navigation is marked."""
        for name in names:
            self.goes(name)
            assert self.page.locator("nav a[aria-current]").count() == 1, name
            self.finds_it_sound(name.replace("/", "-").replace("?", "-"))

    def keeps_picture(self, name: str) -> None:
        if folder := os.environ.get("ADMIN_SCREENSHOTS"):
            width = "phone" if self.page.viewport_size["width"] < 500 else "wide"
            look = f"{width}-{'dark' if self.is_dark else 'light'}"
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=str(Path(folder) / f"{name}-{look}.png"), full_page=True)


@contextlib.contextmanager
def signed_in(gateway: servers.Gateway, browser: Any, name: str = "root", **context: Any) -> Iterator[Administrator]:
    """An administrator in a browser of their own, who has signed in."""
    with looked_at(browser, **context) as seen:
        administrator = Administrator(gateway, seen)
        administrator.signs_in(name)
        yield administrator


@contextlib.contextmanager
def gateway_with_administrators(folder: Path, *names: str, **environment: str) -> Iterator[servers.Gateway]:
    """A gateway under gunicorn; each name is an administrator with `PASSWORD`."""
    with servers.gunicorn(folder, **environment) as running:
        for name in names:
            running.administrator(name)
        yield running
