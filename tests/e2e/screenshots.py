"""Pictures of every page at /admin for docs/admin.md: ``python -m tests.e2e.screenshots``.

It starts a gateway with demo data and walks the navigation as it stands on the pages, and from each page on to the
first thing in its list and to its forms, so that a new page is not forgotten. Debian's chromium and pngquant have to be
there. The pictures that were there are taken away first, and docs/admin.md shows the new ones.
"""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e import servers
from tests.e2e.administrators import WIDTHS, Administrator, gateway_with_administrators
from tests.e2e.browsers import Seen, chromium, looked_at
from tests.e2e.outages import eventually
from tests.e2e.workers import workers
from tests.people import PASSWORD

FOLDER = servers.ROOT / "docs" / "images" / "admin"
DOCUMENT = servers.ROOT / "docs" / "admin.md"
GALLERY_BEGINS, GALLERY_ENDS = "<!-- made by python -m tests.e2e.screenshots -->", "<!-- end of what is made -->"
SOMEBODY = "mara.lindqvist"
"""One of the administrators of the demo data."""
PLAIN_NAME = re.compile(r"[a-z][a-z-]*")
TALLEST = 1500
"""Pixels of a page that are shown, at the most."""
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": WIDTHS["wide"], "color_scheme": "light"},
    "dark": {"viewport": WIDTHS["wide"], "color_scheme": "dark"},
    "phone": {"viewport": WIDTHS["phone"], "color_scheme": "light", "device_scale_factor": 2},
}
"""Each page of the navigation is shown in all of them; what lies behind it in the first."""
BEST = ("/expense-category", "/anthropic")
"""How the addresses end of what is worth more of a look than the first of its list."""
PROVIDERS = {
    "OPENAI_API_KEY": "sk-demo-not-a-key-0001",
    "ANTHROPIC_API_KEY": "sk-ant-demo-not-a-key-0002",
    "GEMINI_API_KEY": "demo-not-a-key-0003",
    "GROK_API_KEY": "xai-demo-not-a-key-0004",
    "LLAMA_API_URL": "http://127.0.0.1:9/v1",
}
"""They are on, so that the pages show them so; nobody is asked."""


def name_of(address: str) -> str:
    """A page's name in the names of its pictures.

    >>> name_of("/admin/people/new")
    'people-new'
    """
    return address.partition("?")[0].removeprefix("/admin/").replace("/", "-")


def navigation_of(page: Any) -> list[str]:
    """The addresses in the column at the side, without the host."""
    return [link.get_attribute("href") for link in page.locator("nav[aria-label=Pages] a").all()]


def behind(page: Any, address: str) -> dict[str, str]:
    """Addresses by name: the first thing in a page's list, and the page's own forms."""
    first = page.locator(f'main #rows a[href^="{address}/"]')
    forms = page.locator(f'main a[href^="{address}/"]:not(#rows *)').all()
    others = [link.get_attribute("href") for link in forms]
    found = {name_of(one): one for one in others if PLAIN_NAME.fullmatch(one.removeprefix(f"{address}/"))}
    if first.count():
        things = [link.get_attribute("href") for link in first.all()]
        found[f"{name_of(address)}-one"] = next((one for one in things if one.endswith(BEST)), things[0])
    return found


def chats(page: Any) -> None:
    """A conversation in the playground, with the model that needs no network."""
    page.select_option("#f-model", "demo")
    page.fill("#f-message", "What may I ask you here?")
    page.click("#send")
    page.wait_for_selector("#pane-0 .figures")
    page.wait_for_selector("#stop", state="hidden")


SCENES: dict[str, Callable[[Any], None]] = {"playground": chats}
"""What is done on a page first, so that there is something to be seen."""


@dataclass
class Photographer:
    """Takes one look's pictures of a gateway's pages."""

    gateway: servers.Gateway
    look: str
    page: Any

    def take(self, address: str, name: str) -> str:
        """Gives the page's heading."""
        self.page.goto(self.gateway.url + address)
        self.page.wait_for_load_state("load")
        Seen(self.page).eventually("!document.querySelector('.htmx-request, [aria-busy=true]')")
        SCENES.get(name, lambda _: None)(self.page)
        self.page.evaluate("document.fonts.ready")
        viewport = self.page.viewport_size
        height = self.page.evaluate("document.documentElement.scrollHeight") if self.look != "phone" else 0
        clip = {"x": 0, "y": 0, "width": viewport["width"], "height": min(max(height, viewport["height"]), TALLEST)}
        path = FOLDER / f"{name}-{self.look}.png"
        self.page.screenshot(path=str(path), full_page=True, clip=clip, animations="disabled")
        subprocess.run(
            ["pngquant", "--force", "--skip-if-larger", "--speed", "1", "--strip", "--ext", ".png", "64", str(path)],
            check=False,
        )  # 98: it is as small as it gets already
        return str(self.page.locator("h1").first.inner_text())

    def walk(self) -> Iterator[tuple[str, str]]:
        """Every page, and in the first look what lies behind it; gives names of pages and their headings."""
        self.page.goto(f"{self.gateway.url}/admin/session")
        for address in navigation_of(self.page):
            yield name_of(address), self.take(address, name_of(address))
            if self.look == "light":
                for name, further in behind(self.page, address).items():
                    yield name, self.take(further, name)


def gallery(headings: Mapping[str, str], pictures: Collection[str]) -> str:
    """The pictures as docs/admin.md shows them: each page in the reader's own scheme, and on a phone."""
    told = []
    for name, words in headings.items():
        heading = html.escape(words)
        light, dark, phone = (f"images/admin/{name}-{look}.png" for look in LOOKS)
        image = f'<img alt="{heading}" src="{light}">'
        if f"{name}-dark" not in pictures:
            told.append(f"{heading}:\n\n{image}")
            continue
        wide = f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">{image}</picture>'
        told.append(f'### {heading}\n\n{wide}\n\n<img alt="{heading}, on a phone" src="{phone}" width="280">')
    return "\n\n".join(told)


def write_gallery(text: str) -> None:
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(GALLERY_BEGINS)
    _, _, after = rest.partition(GALLERY_ENDS)
    DOCUMENT.write_text(f"{before}{GALLERY_BEGINS}\n\n{text}\n\n{GALLERY_ENDS}{after}", encoding="utf-8")


def take_all() -> dict[str, str]:
    """Every picture; gives the headings by the names of pages."""
    headings = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        chromium() as browser,
        gateway_with_administrators(Path(folder), **PROVIDERS) as gateway,
    ):
        with looked_at(browser, **LOOKS["light"]) as seen:
            headings["first-run"] = Photographer(gateway, "light", seen.page).take("/admin", "first-run")
        print(gateway.flask("demo-data", "--password-stdin", stdin=PASSWORD))
        with workers(gateway, 1):
            eventually(lambda: gateway.get("/health/ready")[1]["checks"]["worker"] == "ok", 30)
            for look, context in LOOKS.items():
                with looked_at(browser, **context) as seen:
                    photographer = Photographer(gateway, look, seen.page)
                    if look == "light":
                        headings["sign-in"] = photographer.take("/admin/sign-in", "sign-in")
                    Administrator(gateway, seen).signs_in(SOMEBODY)
                    for name, heading in photographer.walk():
                        headings.setdefault(name, heading)
                        print(f"{name}-{look}")
    return headings


def main() -> None:
    if shutil.which("pngquant") is None:
        sys.exit("no pngquant: install Debian's")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    headings = take_all()
    sizes = {path.stem: path.stat().st_size for path in FOLDER.glob("*.png")}
    write_gallery(gallery(headings, sizes))
    print(f"{len(sizes)} pictures, {sum(sizes.values()) // 1000} kB, the largest {max(sizes.values()) // 1000} kB")


if __name__ == "__main__":
    main()
