"""What differs between two texts, as the administrators' pages show it."""

from __future__ import annotations

import random

from flaskllm.domain.difference import CONTEXT, MOST_LINES, Line, line_differences


def test_equal_texts_differ_in_nothing() -> None:
    assert line_differences("a\nb", "a\nb") == []


def test_a_new_text_is_new_lines_alone() -> None:
    assert line_differences("", "a\nb") == [Line("a", after=1), Line("b", after=2)]
    assert line_differences("a", "") == [Line("a", before=1)]


def test_what_lies_far_from_a_difference_is_left_out_before_between_and_after() -> None:
    before = [str(number) for number in range(40)]
    after = [*before[:10], "ten", *before[11:30], *before[31:]]
    signs = "".join(line.sign for line in line_differences("\n".join(before), "\n".join(after)))
    few = " " * CONTEXT
    assert signs == f"…{few}-+{few}…{few}-{few}…"


def test_the_lines_shown_are_those_of_either_text_with_their_numbers() -> None:
    chance = random.Random(7)
    for _ in range(50):
        old, new = ([chance.choice("abc") for _ in range(chance.randrange(1, 30))] for _ in range(2))
        for line in line_differences("\n".join(old), "\n".join(new)):
            assert line.before is None or old[line.before - 1] == line.text
            assert line.after is None or new[line.after - 1] == line.text


def test_endless_texts_are_told_as_one_out_and_one_in() -> None:
    before, after = "\n" * MOST_LINES, "\n" * MOST_LINES + "x"
    assert "".join(line.sign for line in line_differences(before, after)) == "-" * (MOST_LINES + 1) + "+" * (
        MOST_LINES + 1
    )
