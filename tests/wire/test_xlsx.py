"""Workbooks: what stands in them is text, a number or a day, and never a formula."""

from __future__ import annotations

import io
import zipfile
from datetime import date
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from flaskllm.errors import InvalidRequest
from flaskllm.wire.xlsx import LONGEST_CELL, Sheet, write_workbook

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
STARTS = ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "＝1", '=HYPERLINK("http://x")', "'=1", "<b>&amp;</b>", " kept "]


def cells(book: bytes, sheet: int = 1) -> list[list[tuple[str | None, str | None]]]:
    """The kind and the value of each cell, as they stand in the file."""
    with zipfile.ZipFile(io.BytesIO(book)) as parts:
        assert parts.testzip() is None
        root = ET.fromstring(parts.read(f"xl/worksheets/sheet{sheet}.xml"))
    assert not list(root.iter(f"{MAIN}f"))
    return [[_cell(cell) for cell in row] for row in root.iter(f"{MAIN}row")]


def _cell(cell: Any) -> tuple[str | None, str | None]:
    if cell.get("t") == "inlineStr":
        return "text", "".join(cell.itertext())
    value = cell.find(f"{MAIN}v")
    return (None, None) if value is None else ("day" if cell.get("s") == "3" else "number", value.text)


def written(value: Any) -> tuple[str | None, str | None]:
    return cells(write_workbook([Sheet("s", ["a"], [[value]])]))[1][0]


@pytest.mark.parametrize("text", STARTS)
def test_a_text_stays_a_text_whatever_it_begins_with(text: str) -> None:
    assert written(text) == ("text", text)


@pytest.mark.parametrize(
    "value, kept",
    [(0, "0"), (2**63 - 1, "9223372036854775807"), (Decimal("0.000000001"), "0.000000001"), (Decimal("1E+3"), "1000")],
)
def test_a_number_is_a_number(value: Any, kept: str) -> None:
    assert written(value) == ("number", kept)


def test_a_day_is_a_day_and_nothing_is_nothing() -> None:
    assert written(date(2026, 11, 21)) == ("day", "46347")
    assert written(None) == (None, None)


def test_control_characters_are_replaced_and_excels_own_escapes_kept_as_they_are() -> None:
    assert written("a\x00b\x1bc\ud800d\ufffee\tf\ng") == ("text", "a�b�c�d�e\tf\ng")
    assert written("_x000D_") == ("text", "_x005F_x000D_")


def test_what_a_cell_cannot_hold_is_refused_by_name_and_never_cut() -> None:
    assert written("x" * LONGEST_CELL) == ("text", "x" * LONGEST_CELL)
    for text in ("x" * (LONGEST_CELL + 1), "😀" * (LONGEST_CELL // 2 + 1)):
        with pytest.raises(InvalidRequest, match="at most 32767 characters in a cell, and a, row 2 has more"):
            written(text)


def test_every_part_is_sound_and_the_sheets_are_named() -> None:
    book = write_workbook([Sheet("Usage", ["a", "b"], [["x", 1]]), Sheet("Totals & more", ["c"], [])])
    with zipfile.ZipFile(io.BytesIO(book)) as parts:
        for name in parts.namelist():
            ET.fromstring(parts.read(name))
        sheets = ET.fromstring(parts.read("xl/workbook.xml")).iter(f"{MAIN}sheet")
        assert [sheet.get("name") for sheet in sheets] == ["Usage", "Totals & more"]
    assert cells(book)[0] == [("text", "a"), ("text", "b")]
    assert cells(book, 2) == [[("text", "c")]]
