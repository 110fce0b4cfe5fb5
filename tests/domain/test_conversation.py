"""What of a conversation a model is shown, and what one may be called."""

from __future__ import annotations

import pytest

from flaskllm.domain.conversation import (
    Cursor,
    Turn,
    canonical,
    is_ours,
    new_name,
    read_cursor,
    title_of,
    trim_to_window,
)
from flaskllm.errors import InvalidRequest


def talk(rounds: int, chars: int = 40) -> list[Turn]:
    """So many questions and answers of so many characters each, and one more question."""
    turns = [Turn(role, f"{n}{role[0]}".ljust(chars, ".")) for n in range(rounds) for role in ("user", "assistant")]
    return [*turns, Turn("user", "last".ljust(chars, "."))]


def test_without_a_window_everything_is_shown():
    assert len(trim_to_window(talk(50), None, system="be kind")) == 102


def test_what_fits_is_left_alone():
    assert len(trim_to_window(talk(2), 1000)) == 5


def test_the_oldest_go_first():
    shown = trim_to_window(talk(10), 100)
    assert shown[-1]["content"].startswith("last")
    assert shown[0]["content"].startswith("7u")


def test_what_is_left_begins_with_a_question():
    for window in range(20, 300, 7):
        assert trim_to_window(talk(10), window)[0]["role"] == "user"


def test_the_system_message_is_always_kept():
    shown = trim_to_window(talk(10), 60, system="be kind")
    assert shown[0] == {"role": "system", "content": "be kind"}
    assert len(shown) < 10


def test_the_last_question_is_kept_though_it_does_not_fit():
    shown = trim_to_window(talk(3, chars=4000), 10, system="be kind")
    assert [message["role"] for message in shown] == ["system", "user"]


def test_room_for_the_answer_is_kept_free():
    assert len(trim_to_window(talk(10), 200, reserve=100)) < len(trim_to_window(talk(10), 200))


@pytest.mark.parametrize("name", ["a", "my-notes", "Chat_1.txt", "-1", "null", "x" * 64])
def test_an_owner_may_choose_names(name):
    assert canonical(name) == name
    assert not is_ours(name)


@pytest.mark.parametrize(
    "name", ["", "x" * 65, "conv:*", "a b", "é", "a\n", "../a", "urn:uuid:" + "0" * 36, "a\x00", "a,b"]
)
def test_what_no_conversation_can_be_called(name):
    assert canonical(name) is None


def test_ids_that_we_make_are_known_in_any_case():
    made = new_name()
    assert is_ours(made)
    assert canonical(made.upper()) == made


def test_a_title_is_the_beginning_of_the_first_message():
    assert title_of("x" * 81) == "x" * 80


def test_a_cursor_comes_back_as_it_went():
    cursor = Cursor(1732147200000000, "my.notes-1")
    assert read_cursor(str(cursor)) == cursor


@pytest.mark.parametrize("text", ["", "x", "1", "1.", ".a", "1.a b", "9" * 17 + ".a", "١.a"])
def test_a_made_up_cursor_is_refused_by_name(text):
    with pytest.raises(InvalidRequest, match="after"):
        read_cursor(text)
