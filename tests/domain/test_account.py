"""What an account may be called, and what makes a password strong enough."""

from __future__ import annotations

import pytest

from flaskllm.domain.account import faults_of, folded

GOOD = {"username": "user", "email": "user@example.com", "password": "Password123"}


def fields_at_fault(**changed: str) -> list[str]:
    return [fault["field"] for fault in faults_of(**{**GOOD, **changed})]


def test_the_seeds_own_example_passes():
    assert fields_at_fault() == []


@pytest.mark.parametrize(
    "name",
    ["", "a", "x" * 300, "a b", "<script>alert(1)</script>", "../admin", "${7*7}", "%s%s%n", "victim@example.com",
     "ａｄｍｉｎ", "аdmin", "admin\n", "admin\x00", "١٢٣"],
)  # fmt: skip
def test_user_names_are_a_closed_alphabet(name: str):
    assert fields_at_fault(username=name) == ["username"]


@pytest.mark.parametrize(
    "email",
    ["", "a@b\r\nBcc: x@y.z", "a@@b.c", "a@", "@b.cd", "a b@c.de", "a@b..cd", "a@[127.0.0.1]", "a@example.com\x00",
     "a@127.0.0.1", ".a@b.cd", "a.@b.cd", "a@-b.cd", "a@b-.cd", "a@localhost", "a" * 65 + "@b.cd",
     "a@" + "b." * 130 + "cd"],
)  # fmt: skip
def test_malformed_e_mails_are_refused(email: str):
    assert fields_at_fault(email=email) == ["email"]


@pytest.mark.parametrize("email", ["o'brien+tag@mail.example.co.uk", "A.B@x1.de", "x@xn--bcher-kva.example"])
def test_odd_but_real_e_mails_are_taken(email: str):
    assert fields_at_fault(email=email) == []


@pytest.mark.parametrize(
    "password",
    ["", "Pass123", "password123", "PASSWORD123", "Password", "P1" + "a" * 255, "Pass\x00word123"],
)
def test_weak_passwords_are_refused(password: str):
    assert fields_at_fault(password=password) == ["password"]


def test_letters_of_any_script_may_stand_in_a_password():
    assert fields_at_fault(password="Ünïcödé паролЬ 1") == []


def test_everything_at_fault_is_told_at_once():
    assert fields_at_fault(username="a", email="b", password="c") == ["username", "email", "password"]


def test_look_alikes_in_case_and_width_are_the_same():
    assert folded("ＡＤＭＩＮ") == folded("Admin") == "admin"
