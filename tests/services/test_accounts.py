"""Accounts and sessions: who someone is, and when a session dies."""

from __future__ import annotations

import time
from datetime import timedelta
from decimal import Decimal

import pytest
from flask import Flask
from sqlalchemy import select, update

from flaskllm.domain.audit import SYSTEM
from flaskllm.domain.principal import SCOPES, Budget, Principal
from flaskllm.errors import (
    Conflict,
    DomainError,
    Forbidden,
    InvalidRequest,
    NotFound,
    RateLimited,
    TokenExpired,
    TokenRevoked,
    Unauthenticated,
)
from flaskllm.models.account import LoginSession, RefreshToken, User
from flaskllm.models.types import now
from flaskllm.services.recent import Recent
from tests.people import NEW_PASSWORD, PASSWORD, People, database_of, people


@pytest.fixture
def here(app: Flask) -> People:
    return people(database_of(app))


@pytest.fixture
def there(here: People) -> People:
    """A second process on the same database."""
    return people(here.database)


def within_a_second(happens) -> bool:
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        if happens():
            return True
        time.sleep(0.05)
    return False


def is_refused(process: People, token: str) -> bool:
    try:
        process.accounts.identify(token)
    except Unauthenticated:
        return True
    return False


# -- registering ------------------------------------------------------------------------------------------------------


def test_the_first_account_is_no_administrator(here: People):
    user = here.accounts.register("mallory", "m@example.com", PASSWORD)
    assert (user.role, user.status, user.scopes) == ("user", "active", ["chat", "webhook", "external"])


def test_every_new_account_has_the_default_budget(here: People):
    here.accounts.register("alice", "alice@example.com", PASSWORD)
    principal = here.signed_in()
    assert principal.budgets == (Budget(f"user:{principal.user_id}", 10 * 10**9, "month"),)


def test_without_a_default_budget_there_is_no_bound(here: People):
    unbound = people(here.database, default_budget=None)
    unbound.user()
    assert unbound.signed_in().budgets == ()


def test_where_registration_needs_approval_the_account_waits(here: People):
    asking = people(here.database, registration="approval")
    user = asking.accounts.register("alice", "alice@example.com", PASSWORD)
    assert not asking.signed_in().approved
    asking.accounts.change_user(user.id, {"status": "active"})
    assert asking.signed_in().approved


def test_where_registration_is_closed_nobody_registers(here: People):
    with pytest.raises(Forbidden):
        people(here.database, registration="closed").accounts.register("alice", "alice@example.com", PASSWORD)


@pytest.mark.parametrize("name", ["ALICE", "Alice", "aLiCe"])
def test_look_alikes_of_a_name_are_taken(here: People, name: str):
    here.user()
    with pytest.raises(Conflict) as refused:
        here.accounts.register(name, "other@example.com", PASSWORD)
    assert refused.value.param == "username"


def test_look_alikes_of_an_e_mail_are_taken(here: People):
    here.user()
    with pytest.raises(Conflict) as refused:
        here.accounts.register("bob", "ALICE@Example.com", PASSWORD)
    assert refused.value.param == "email"


def test_nobody_registers_as_the_service_user(here: People):
    with pytest.raises(Conflict):
        here.accounts.register("Service", "s@example.com", PASSWORD)


def test_all_that_is_wrong_with_a_registration_is_told_at_once(here: People):
    with pytest.raises(InvalidRequest) as refused:
        here.accounts.register("a", "b", "c")
    assert [detail["field"] for detail in refused.value.details] == ["username", "email", "password"]


def test_a_look_alike_in_another_script_is_no_name_at_all(here: People):
    for name in ("ａｄｍｉｎ", "аdmin"):
        with pytest.raises(InvalidRequest):
            here.accounts.register(name, "m@example.com", PASSWORD)


def test_an_address_that_registers_without_end_is_slowed_down(here: People):
    for _ in range(60):
        with pytest.raises(InvalidRequest):
            here.accounts.register("a", "b", "c", address="10.0.0.1")
    with pytest.raises(RateLimited):
        here.accounts.register("a", "b", "c", address="10.0.0.1")


# -- logging in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("login", ["alice", "ALICE", "alice@example.com", "Alice@Example.COM"])
def test_name_and_e_mail_both_log_in(here: People, login: str):
    here.user()
    assert here.accounts.login(login, PASSWORD).user.username == "alice"


def test_an_access_token_says_who_calls(here: People):
    user = here.user()
    principal = here.signed_in()
    assert (principal.user_id, principal.username, principal.role) == (user.id, "alice", "user")
    assert principal.scopes == {"chat", "webhook", "external"}
    assert principal.session_id
    assert principal.token_id is None


def refusal(here: People, login: str, password: str) -> tuple[type, str]:
    with pytest.raises(DomainError) as refused:
        here.accounts.login(login, password)
    return type(refused.value), refused.value.message


def test_unknown_wrong_and_disabled_are_not_told_apart(here: People):
    here.user()
    disabled = here.user("dora")
    here.accounts.change_user(disabled.id, {"status": "disabled"})
    told = {refusal(here, "nobody", "x"), refusal(here, "alice", "x"), refusal(here, "dora", PASSWORD)}
    assert len(told) == 1
    assert told.pop()[0] is Unauthenticated


@pytest.mark.parametrize("login", ["' OR '1'='1' --", '" OR ""="', "%", "_____", "alice\\", "alice%", ""])
def test_signs_of_sql_are_data(here: People, login: str):
    here.user()
    with pytest.raises(Unauthenticated):
        here.accounts.login(login, PASSWORD)


def test_unknown_and_wrong_take_the_same_time(here: People):
    here.user()

    def seconds(login: str) -> float:
        started = time.perf_counter()
        with pytest.raises(Unauthenticated):
            here.accounts.login(login, "wrong")
        return time.perf_counter() - started

    pairs = [(seconds("alice"), seconds(f"nobody{n}")) for n in range(8)]
    known, unknown = (min(times) for times in zip(*pairs, strict=True))
    assert 0.6 < known / unknown < 1.6


def test_the_service_user_cannot_log_in(here: People):
    here.tokens.issue_for_service(name="t", document={})
    for password in ("", PASSWORD, "None"):
        with pytest.raises(Unauthenticated):
            here.accounts.login("service", password)


# -- guessing ---------------------------------------------------------------------------------------------------------


def guesses(here: People, number: int, *, address: str = "10.0.0.1", login: str = "alice") -> list[type]:
    told = []
    for _ in range(number):
        with pytest.raises(DomainError) as refused:
            here.accounts.login(login, "wrong", address=address)
        told.append(type(refused.value))
    return told


@pytest.fixture
def quick(here: People, monkeypatch: pytest.MonkeyPatch) -> People:
    """Without the cost of a hash: here only the counting counts."""
    passwords = here.accounts._passwords
    known = passwords.hash(PASSWORD)
    monkeypatch.setattr(passwords, "verify", lambda password, of: of is not None and password == PASSWORD)
    monkeypatch.setattr(passwords, "hash", lambda password: known)
    here.user()
    return here


def test_an_account_has_ten_tries_a_minute(quick: People):
    assert guesses(quick, 12) == [Unauthenticated] * 10 + [RateLimited] * 2


def test_the_eleventh_try_fails_with_the_right_password_too(quick: People):
    guesses(quick, 10)
    with pytest.raises(RateLimited) as refused:
        quick.accounts.login("alice", PASSWORD, address="10.0.0.1")
    assert refused.value.retry_after >= 1


def test_name_and_e_mail_share_the_ten_tries(quick: People):
    assert guesses(quick, 5) + guesses(quick, 6, login="alice@example.com") == [Unauthenticated] * 10 + [RateLimited]


def test_the_owner_still_gets_in_from_a_quiet_address(quick: People):
    guesses(quick, 30)
    assert quick.accounts.login("alice", PASSWORD, address="192.0.2.7")


def test_a_botnet_gets_one_try_an_address_once_the_ten_are_used(quick: People):
    guesses(quick, 10)
    assert guesses(quick, 2, address="192.0.2.7") == [Unauthenticated, RateLimited]


def test_an_address_has_sixty_tries_over_all_accounts(quick: People):
    told = [guesses(quick, 1, login=f"user{n}")[0] for n in range(62)]
    assert told == [Unauthenticated] * 60 + [RateLimited] * 2


def test_a_whole_ipv6_network_is_one_address(quick: People):
    told = [guesses(quick, 1, login=f"u{n}", address=f"2001:db8::{n:x}")[0] for n in range(61)]
    assert told[-1] is RateLimited


def test_after_a_minute_there_is_room_again(quick: People):
    guesses(quick, 11)
    quick.throttle.pass_by(60)
    assert quick.accounts.login("alice", PASSWORD, address="10.0.0.1")


def test_an_old_password_is_guessed_at_no_faster(quick: People):
    principal = quick.signed_in()
    told = []
    for _ in range(11):
        with pytest.raises(DomainError) as refused:
            quick.accounts.change_profile(principal, {"email": "n@example.com"}, old_password="x", address="10.0.0.9")
        told.append(type(refused.value))
    assert told[-1] is RateLimited


# -- refreshing -------------------------------------------------------------------------------------------------------


def test_a_refresh_token_gives_a_new_pair(here: People):
    here.user()
    first = here.accounts.login("alice", PASSWORD)
    second = here.accounts.refresh(first.refresh_token)
    assert second.refresh_token != first.refresh_token
    assert here.accounts.identify(second.access_token) == here.accounts.identify(first.access_token)


def test_a_refresh_token_used_twice_ends_the_whole_session(here: People):
    here.user()
    first = here.accounts.login("alice", PASSWORD)
    second = here.accounts.refresh(first.refresh_token)
    with pytest.raises(TokenRevoked):
        here.accounts.refresh(first.refresh_token)
    with pytest.raises(TokenRevoked):
        here.accounts.refresh(second.refresh_token)
    with pytest.raises(TokenRevoked):
        here.accounts.identify(second.access_token)


def test_an_old_generation_ends_the_session_as_well(here: People):
    here.user()
    first = here.accounts.login("alice", PASSWORD)
    third = here.accounts.refresh(here.accounts.refresh(first.refresh_token).refresh_token)
    with pytest.raises(TokenRevoked):
        here.accounts.refresh(first.refresh_token)
    with pytest.raises(TokenRevoked):
        here.accounts.refresh(third.refresh_token)


def test_another_login_of_the_same_user_lives_on(here: People):
    here.user()
    one, other = here.accounts.login("alice", PASSWORD), here.accounts.login("alice", PASSWORD)
    here.accounts.refresh(one.refresh_token)
    with pytest.raises(TokenRevoked):
        here.accounts.refresh(one.refresh_token)
    assert here.accounts.refresh(other.refresh_token)


def test_an_expired_refresh_token_is_told_as_expired(here: People):
    here.user()
    token = here.accounts.login("alice", PASSWORD).refresh_token
    with here.database.transaction() as session:
        session.execute(update(RefreshToken).values(expires_at=now() - timedelta(seconds=1)))
    with pytest.raises(TokenExpired):
        here.accounts.refresh(token)


@pytest.mark.parametrize("token", ["", "null", "undefined", "x" * 100_000, "fl_refresh" + "0" * 43])
def test_what_is_no_refresh_token_is_refused(here: People, token: str):
    with pytest.raises(Unauthenticated):
        here.accounts.refresh(token)


def test_an_access_token_is_no_refresh_token(here: People):
    here.user()
    with pytest.raises(Unauthenticated):
        here.accounts.refresh(here.accounts.login("alice", PASSWORD).access_token)


def test_only_hashes_of_refresh_tokens_are_stored(here: People):
    here.user()
    token = here.accounts.login("alice", PASSWORD).refresh_token
    with here.database.reading() as session:
        assert token not in session.scalars(select(RefreshToken.hash)).all()


# -- ends of sessions -------------------------------------------------------------------------------------------------


def test_logging_out_ends_the_session_at_once(here: People):
    here.user()
    login = here.accounts.login("alice", PASSWORD)
    here.accounts.logout(here.accounts.identify(login.access_token))
    with pytest.raises(TokenRevoked):
        here.accounts.identify(login.access_token)
    with pytest.raises(TokenRevoked):
        here.accounts.refresh(login.refresh_token)


def test_a_logout_acts_on_another_process_within_a_second(here: People, there: People):
    here.user()
    token = here.accounts.login("alice", PASSWORD).access_token
    principal = there.accounts.identify(token)
    here.accounts.logout(principal)
    assert within_a_second(lambda: is_refused(there, token))


def test_a_new_password_ends_every_session_everywhere_within_a_second(here: People, there: People):
    here.user()
    mine, other = here.accounts.login("alice", PASSWORD), here.accounts.login("alice", PASSWORD)
    there.accounts.identify(mine.access_token)
    principal = here.accounts.identify(mine.access_token)
    here.accounts.change_profile(principal, {"password": NEW_PASSWORD}, old_password=PASSWORD)
    assert is_refused(here, mine.access_token)
    assert is_refused(here, other.access_token)
    assert within_a_second(lambda: is_refused(there, mine.access_token))
    with pytest.raises(TokenRevoked):
        here.accounts.refresh(other.refresh_token)
    assert here.accounts.login("alice", NEW_PASSWORD)


def test_a_demotion_acts_everywhere_within_a_second(here: People, there: People):
    here.user("root", admin=True)
    boss = here.user("boss", admin=True)
    token = here.accounts.login("boss", PASSWORD).access_token
    assert there.accounts.identify(token).is_admin
    here.accounts.change_user(boss.id, {"role": "user"})
    assert within_a_second(lambda: not there.accounts.identify(token).is_admin)


def test_a_disabled_user_is_out_and_stays_out_with_old_credentials(here: People):
    user = here.user()
    login = here.accounts.login("alice", PASSWORD)
    here.accounts.change_user(user.id, {"status": "disabled"})
    assert is_refused(here, login.access_token)
    with pytest.raises(Unauthenticated):
        here.accounts.refresh(login.refresh_token)
    here.accounts.change_user(user.id, {"status": "active"})
    assert is_refused(here, login.access_token)


def test_a_session_that_was_not_refreshed_in_time_is_over(here: People):
    here.user()
    token = here.accounts.login("alice", PASSWORD).access_token
    with here.database.transaction() as session:
        session.execute(update(LoginSession).values(expires_at=now() - timedelta(seconds=1)))
    with pytest.raises(TokenExpired):
        here.accounts.identify(token)


def test_a_user_who_is_gone_is_nobody(here: People):
    user = here.user()
    token = here.accounts.login("alice", PASSWORD).access_token
    with here.database.transaction() as session:
        session.delete(session.get_one(User, user.id))
    with pytest.raises(Unauthenticated):
        here.accounts.identify(token)


def test_another_users_id_in_a_token_does_not_fit_the_session(here: People):
    here.user()
    bob = here.user("bob")
    mine = here.accounts.login("alice", PASSWORD).access_token
    session_id = here.accounts.identify(mine).session_id
    forged = here.accounts._sessions._jwt.write(user_id=bob.id, session_id=session_id or "", seconds=900)
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            here.accounts.identify(forged)


def test_sweeping_forgets_what_ended_long_ago_and_nothing_else(here: People):
    here.user()
    here.accounts.login("alice", PASSWORD)
    with here.database.transaction() as session:
        session.execute(update(LoginSession).values(expires_at=now() - timedelta(days=2)))
    kept = here.accounts.login("alice", PASSWORD)
    here.accounts.sweep()
    with here.database.reading() as session:
        assert len(session.scalars(select(LoginSession)).all()) == 1
        assert len(session.scalars(select(RefreshToken)).all()) == 1
    assert here.accounts.identify(kept.access_token)


# -- the profile ------------------------------------------------------------------------------------------------------


def test_e_mail_and_password_need_the_old_password(here: People):
    here.user()
    principal = here.signed_in()
    for changes in ({"email": "new@example.com"}, {"password": NEW_PASSWORD}):
        with pytest.raises(InvalidRequest) as refused:
            here.accounts.change_profile(principal, changes, old_password=None)
        assert refused.value.param == "old_password"
        with pytest.raises(Forbidden):
            here.accounts.change_profile(principal, changes, old_password="wrong")


def test_with_the_old_password_the_e_mail_changes_and_the_session_lives_on(here: People):
    here.user()
    login = here.accounts.login("alice", PASSWORD)
    principal = here.accounts.identify(login.access_token)
    user = here.accounts.change_profile(principal, {"email": "new@example.com"}, old_password=PASSWORD)
    assert user.email == here.accounts.profile(principal).email == "new@example.com"
    assert here.accounts.identify(login.access_token)
    assert here.accounts.login("new@example.com", PASSWORD)


def test_a_name_changes_without_a_password(here: People):
    here.user()
    here.accounts.change_profile(here.signed_in(), {"username": "alicia"}, old_password=None)
    assert here.accounts.login("alicia", PASSWORD)


@pytest.mark.parametrize("changes", [{"username": "BOB"}, {"email": "Bob@example.com"}, {"username": "service"}])
def test_what_is_anothers_stays_anothers(here: People, changes: dict):
    here.user()
    here.user("bob")
    with pytest.raises(Conflict):
        here.accounts.change_profile(here.signed_in(), changes, old_password=PASSWORD)


def test_a_weak_new_password_is_refused(here: People):
    here.user()
    with pytest.raises(InvalidRequest):
        here.accounts.change_profile(here.signed_in(), {"password": "weak"}, old_password=PASSWORD)


def test_of_two_changes_with_the_same_old_password_one_is_told_to_look_again(here: People, there: People):
    user = here.user()
    stale = here.accounts.get_user(user.id)
    there.accounts.reset_password(user.id, NEW_PASSWORD)
    with pytest.raises(Conflict):
        here.accounts._write(stale, {"email": "x@example.com"}, SYSTEM)


def test_a_login_that_was_overtaken_by_a_new_password_opens_no_session(here: People, there: People):
    user = here.user()
    stale = here.accounts.get_user(user.id)
    there.accounts.reset_password(user.id, NEW_PASSWORD)
    with pytest.raises(Unauthenticated):
        here.accounts._sessions.open(stale)


def test_an_api_token_cannot_change_its_owner_nor_log_out(here: People):
    here.user()
    _, token = here.tokens.issue(here.signed_in(), {"name": "t"})
    principal = here.tokens.identify(token)
    with pytest.raises(Forbidden):
        here.accounts.change_profile(principal, {"username": "mallory"}, old_password=PASSWORD)
    with pytest.raises(InvalidRequest):
        here.accounts.logout(principal)


# -- the operator -----------------------------------------------------------------------------------------------------


def test_an_administrator_has_every_scope(here: People):
    here.user("root", admin=True)
    principal = here.signed_in("root")
    assert principal.is_admin
    assert principal.scopes == set(SCOPES)


@pytest.mark.parametrize("changes", [{"role": "user"}, {"status": "disabled"}, {"status": "waiting"}])
def test_the_last_administrator_stays(here: People, changes: dict):
    root = here.user("root", admin=True)
    disabled = here.user("other", admin=True)
    here.accounts.change_user(disabled.id, {"status": "disabled"})
    here.tokens.issue_for_service(name="t", document={})
    with pytest.raises(Conflict, match="last administrator"):
        here.accounts.change_user(root.id, changes)
    assert here.accounts.get_user(root.id).role == "admin"
    assert here.accounts.login("root", PASSWORD)


def test_scopes_and_budget_are_given_by_an_administrator(here: People):
    user = here.user()
    here.accounts.change_user(
        user.id, {"scopes": ["batch", "chat"], "budget": {"amount": Decimal("0.5"), "period": "day"}}
    )
    principal = here.signed_in()
    assert principal.scopes == {"chat", "batch"}
    assert principal.budgets[0].amount == 500_000_000
    here.accounts.change_user(user.id, {"budget": None})
    assert here.signed_in().budgets == ()


@pytest.mark.parametrize(
    "changes",
    [{"role": "root"}, {"status": "asleep"}, {"scopes": ["everything"]}, {"budget": {"amount": 1, "period": "year"}}],
)
def test_what_is_no_role_status_or_scope_is_refused(here: People, changes: dict):
    with pytest.raises(InvalidRequest):
        here.accounts.change_user(here.user().id, changes)


def test_a_password_given_anew_ends_the_sessions(here: People):
    user = here.user()
    token = here.accounts.login("alice", PASSWORD).access_token
    here.accounts.reset_password(user.id, NEW_PASSWORD)
    assert is_refused(here, token)
    assert here.accounts.login("alice", NEW_PASSWORD)


def test_the_service_user_is_given_no_password(here: People):
    here.tokens.issue_for_service(name="t", document={})
    with pytest.raises(Conflict):
        here.accounts.reset_password(here.accounts.find_user("service").id, NEW_PASSWORD)


def test_who_does_not_exist_is_not_found(here: People):
    for ask in (here.accounts.get_user, here.accounts.find_user):
        with pytest.raises(NotFound):
            ask("nobody")


def test_users_are_listed_in_pages_without_gap_or_repetition(here: People, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(here.accounts._passwords, "hash", lambda password: "x")
    names = [here.user(f"user{n}").username for n in range(5)]
    found, after = [], None
    for _ in range(3):
        rows, after = here.accounts.list_users(limit=2, after=after)
        found += [row.username for row in rows]
    assert (found, after) == (names, None)
    with pytest.raises(InvalidRequest):
        here.accounts.list_users(limit=2, after="nobody")


# -- the cache --------------------------------------------------------------------------------------------------------


def test_a_principal_is_looked_up_once_within_a_second(here: People):
    here.user()
    token = here.accounts.login("alice", PASSWORD).access_token
    assert here.accounts.identify(token) is here.accounts.identify(token)


def test_what_is_remembered_is_bounded():
    recent: Recent[int] = Recent(most=3)
    for number in range(10):
        recent.get(str(number), lambda: 0)
    assert len(recent._known) <= 3


def test_what_was_read_before_a_change_is_not_remembered_after_it():
    recent: Recent[int] = Recent(seconds=60)

    def read_while_it_changes() -> int:
        recent.forget()
        return 1

    assert recent.get("k", read_while_it_changes) == 1
    assert recent.get("k", lambda: 2) == 2


def test_a_principal_of_a_person_is_counted_by_the_person(here: People):
    here.user()
    principal = here.signed_in()
    assert isinstance(principal, Principal)
    assert principal.subject == f"user:{principal.user_id}"
