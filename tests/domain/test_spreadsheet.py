"""What a table's cells may begin with, whoever reads the table and at whatever it splits lines."""

from __future__ import annotations

import csv
import io
import re
import time

import pytest

from flaskllm.domain.spreadsheet import cell_safe, table_safe

BEGINS_A_FORMULA = re.compile('[\\s"\u200b]*[=+\\-@＝]')
"""Written apart from the gateway's own."""
SPLIT = [
    ("a;=1+1;b", "a;'=1+1;b"),
    ("a\t=1+1\tb", "a\t'=1+1\tb"),
    ("a\n=1+1\nb", "a\n'=1+1\nb"),
    ("a\r\n=1+1", "a\r\n'=1+1"),
    ("a\r@SUM(1)", "a\r'@SUM(1)"),
    ("a;-1;+1", "a;'-1;'+1"),
    (';"=1+1"', "';\"'=1+1\""),
    (";=1+1", "';'=1+1"),
    ("a;;; \u200b＝1", "a;;; \u200b'＝1"),
    ("a;'=1", "a;''=1"),
]
PLAIN = [
    "a, =1",
    "a = 1; b = 2",
    "One:\n- two\n+ three\n* four",
    "a\n|b|\n|-|",
    "x;y",
    "e-mail: a@b.example;c",
    "5-3",
    "",
]


@pytest.mark.parametrize("text, safe", SPLIT)
def test_a_text_starts_no_formula_where_another_reader_splits_it(text: str, safe: str) -> None:
    assert table_safe(text) == safe
    line = io.StringIO(newline="")
    csv.writer(line, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerow(["1", safe, "2"])
    assert [cell for cell in re.split("[;\t\r\n]", line.getvalue()) if BEGINS_A_FORMULA.match(cell)] == []
    line.seek(0)
    assert next(csv.reader(line, strict=True))[1] == safe


@pytest.mark.parametrize("text", PLAIN)
def test_what_begins_no_cell_stays_as_it_is(text: str) -> None:
    """Lists and tables of an answer too."""
    assert table_safe(text) == cell_safe(text) == text


def test_a_long_run_of_separators_takes_no_longer_than_other_texts() -> None:
    began = time.monotonic()
    for text in (";" * 200_000, "\n" * 200_000 + "x", "\t;" * 100_000 + "=1"):
        assert table_safe(text).replace("'", "") == text
    assert time.monotonic() - began < 2
