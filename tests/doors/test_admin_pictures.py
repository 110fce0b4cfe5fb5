"""docs/admin.md shows every page: whoever adds one takes the pictures anew (``python -m tests.e2e.screenshots``)."""

from __future__ import annotations

import re

from flask import Flask

from tests.doors.visitor import Visitor, navigation
from tests.e2e.screenshots import DOCUMENT, FOLDER, LOOKS, name_of

LARGEST, ALL_TOGETHER = 120_000, 4_000_000
"""Bytes: people clone the repository."""


def test_every_page_of_the_navigation_has_its_picture_in_every_look(app: Flask) -> None:
    wanted = {f"{name_of(address)}-{look}" for address in navigation(Visitor.admin(app)) for look in LOOKS}
    assert wanted - {path.stem for path in FOLDER.glob("*.png")} == set()


def test_every_picture_is_shown_and_every_one_that_is_shown_is_there() -> None:
    shown = set(re.findall(r"images/admin/([a-z-]+)\.png", DOCUMENT.read_text(encoding="utf-8")))
    assert shown == {path.stem for path in FOLDER.glob("*.png")}


def test_the_pictures_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.glob("*.png")}
    assert {name for name, size in sizes.items() if size > LARGEST} == set()
    assert sum(sizes.values()) < ALL_TOGETHER
