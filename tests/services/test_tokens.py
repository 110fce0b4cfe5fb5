"""API tokens: what one may do, whose it is, and when it dies."""

from __future__ import annotations

import time
from datetime import timedelta
from decimal import Decimal

import pytest
from flask import Flask
from sqlalchemy import event, select, update

from flaskllm.domain import api_token
from flaskllm.domain.principal import Budget
from flaskllm.errors import Conflict, Forbidden, InvalidRequest, NotFound, TokenExpired, TokenRevoked, Unauthenticated
from flaskllm.models.account import ApiToken, User
from flaskllm.models.types import now
from tests.people import People, database_of, people

ENVIRONMENT_TOKEN = "operators-own-text-of-any-form-at-all"


@pytest.fixture
def here(app: Flask) -> People:
    made = people(database_of(app))
    made.user()
    return made


@pytest.fixture
def there(here: People) -> People:
    """A second process on the same database."""
    return people(here.database)


def issued(here: People, **fields: object) -> tuple[ApiToken, str]:
    return here.tokens.issue_for_user("alice", {"name": "t", **fields})  # type: ignore[typeddict-item]


def is_refused(process: People, token: str) -> bool:
    try:
        process.tokens.identify(token)
    except Unauthenticated:
        return True
    return False


def within_a_second(happens) -> bool:
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        if happens():
            return True
        time.sleep(0.05)
    return False


# -- who is calling ---------------------------------------------------------------------------------------------------


def test_a_token_says_who_calls_and_what_it_may(here: People):
    row, token = issued(
        here, scopes=["chat"], models=["gpt-4o"], templates=["sum"], requests_per_minute=5, tokens_per_minute=600,
        concurrency=2, allowed_ips=["10.0.0.0/8"], tags=["x"], drop_params=True,
        budget={"amount": Decimal("1.5"), "period": "day"},
    )  # fmt: skip
    principal = here.tokens.identify(token)
    assert (principal.token_id, principal.session_id, principal.username) == (row.id, None, "alice")
    assert (principal.scopes, principal.models, principal.templates) == ({"chat"}, ("gpt-4o",), ("sum",))
    assert (principal.requests_per_minute, principal.tokens_per_minute, principal.concurrency) == (5, 600, 2)
    assert (principal.allowed_ips, principal.tags, principal.drop_params) == (("10.0.0.0/8",), ("x",), True)
    own, owners = principal.budgets
    assert own == Budget(f"token:{row.id}", 1_500_000_000, "day")
    assert owners == Budget(f"user:{principal.user_id}", 10 * 10**9, "month")


def test_without_scopes_it_gets_its_owners_less_what_is_only_granted(here: People):
    assert here.tokens.identify(issued(here)[1]).scopes == {"chat", "webhook"}


def test_a_token_never_has_more_than_its_owner(here: People):
    with pytest.raises(Forbidden) as refused:
        issued(here, scopes=["chat", "batch"])
    assert refused.value.param == "scopes"


def test_what_the_owner_loses_the_token_loses(here: People):
    row, token = issued(here, scopes=["chat", "webhook"])
    here.accounts.change_user(row.user_id, {"scopes": ["webhook"]})
    assert people(here.database).tokens.identify(token).scopes == {"webhook"}


def test_an_administrators_token_is_an_administrator_only_by_scope(here: People):
    here.user("root", admin=True)
    _, plain = here.tokens.issue_for_user("root", {"name": "t"})
    _, full = here.tokens.issue_for_user("root", {"name": "t", "scopes": ["admin"]})
    assert not here.tokens.identify(plain).is_admin
    assert here.tokens.identify(full).is_admin


def test_a_waiting_owners_token_waits_too(here: People):
    row, token = issued(here)
    here.accounts.change_user(row.user_id, {"status": "waiting"})
    assert not here.tokens.identify(token).approved


def test_a_disabled_owners_token_is_nobodys(here: People):
    row, token = issued(here)
    here.accounts.change_user(row.user_id, {"status": "disabled"})
    with pytest.raises(Unauthenticated) as refused:
        here.tokens.identify(token)
    assert type(refused.value) is Unauthenticated


def test_garbage_costs_no_query(here: People):
    queries: list[str] = []
    event.listen(here.database.engine, "before_cursor_execute", lambda *given: queries.append(given[2]))
    token = api_token.make()
    wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
    for garbage in ("fl_badchecksum", wrong, "' OR '1'='1", "%", "éé", "", api_token.hash_of(token), token + " "):
        with pytest.raises(Unauthenticated):
            here.tokens.identify(garbage)
    assert queries == []


def test_a_well_formed_token_nobody_has_is_refused(here: People):
    with pytest.raises(Unauthenticated):
        here.tokens.identify(api_token.make())


def test_only_a_hash_is_stored_and_it_is_no_credential(here: People):
    row, token = issued(here)
    with here.database.reading() as session:
        stored = session.scalars(select(ApiToken)).one()
        values = [str(getattr(stored, column.key)) for column in ApiToken.__table__.columns]
    assert not any(token in value or token[8:-4] in value for value in values)
    with pytest.raises(Unauthenticated):
        here.tokens.identify(row.hash)


def test_an_expired_token_is_told_as_expired(here: People):
    _, token = issued(here, expires_at=now() + timedelta(hours=1))
    with here.database.transaction() as session:
        session.execute(update(ApiToken).values(expires_at=now() - timedelta(seconds=1)))
    with pytest.raises(TokenExpired):
        here.tokens.identify(token)


def test_a_principal_is_looked_up_once_within_a_second(here: People):
    _, token = issued(here)
    assert here.tokens.identify(token) is here.tokens.identify(token)


# -- the last use -----------------------------------------------------------------------------------------------------


def last_use(here: People, row: ApiToken) -> object:
    return here.tokens.get(None, row.id).last_used_at


def test_the_use_of_a_token_is_noted(here: People):
    row, token = issued(here)
    here.tokens.identify(token)
    assert last_use(here, row) is not None


def test_the_use_is_written_at_most_once_a_minute(here: People, there: People):
    row, token = issued(here)
    here.tokens.identify(token)
    first = last_use(here, row)
    here.tokens._recent.forget()
    here.tokens.identify(token)
    there.tokens.identify(token)
    assert last_use(here, row) == first
    with here.database.transaction() as session:
        session.execute(update(ApiToken).values(last_used_at=now() - timedelta(minutes=2)))
    people(here.database).tokens.identify(token)
    assert last_use(here, row) > first  # type: ignore[operator]


def test_a_use_that_cannot_be_noted_fails_no_call(here: People):
    row, token = issued(here)
    with here.database.engine.begin() as connection:
        full = "CREATE TRIGGER full BEFORE UPDATE ON api_tokens BEGIN SELECT RAISE(FAIL, 'disk full'); END"
        connection.exec_driver_sql(full)
    for _ in range(2):  # and is not tried again with every call
        assert here.tokens.identify(token).token_id == row.id
        here.tokens._recent.forget()
    assert last_use(here, row) is None


def test_what_is_remembered_of_uses_is_bounded(here: People):
    here.tokens._use_noted = {str(number): 0.0 for number in range(10_001)}
    here.tokens.identify(issued(here)[1])
    assert len(here.tokens._use_noted) == 1


# -- making -----------------------------------------------------------------------------------------------------------


def test_a_fresh_token_is_found_by_its_text(here: People):
    row, token = here.tokens.issue(here.signed_in(), {"name": "mine"})
    assert (row.name, row.prefix, row.last4) == ("mine", token[:8], token[-4:])
    assert here.tokens.identify(token).username == "alice"


def test_a_token_makes_no_tokens(here: People):
    row, token = issued(here)
    principal = here.tokens.identify(token)
    for attempt in (
        lambda: here.tokens.issue(principal, {"name": "more"}),
        lambda: here.tokens.change(principal, row.id, {"budget": None}),
        lambda: here.tokens.rotate(principal, row.id),
        lambda: here.tokens.revoke(principal, row.id),
    ):
        with pytest.raises(Forbidden):
            attempt()


def test_at_most_a_hundred_live_tokens_a_user(here: People):
    rows = [issued(here)[0] for _ in range(100)]
    with pytest.raises(Conflict):
        issued(here)
    here.tokens.revoke_any(rows[0].id)
    issued(here)


@pytest.mark.parametrize(
    "fields",
    [{"scopes": ["/*"]}, {"budget": {"amount": -1, "period": "day"}}, {"budget": {"amount": 1, "period": "year"}},
     {"expires_at": now() - timedelta(seconds=1)}],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(here: People, fields: dict):
    with pytest.raises(InvalidRequest):
        issued(here, **fields)


def test_nobody_gets_no_token(here: People):
    with pytest.raises(NotFound):
        here.tokens.issue_for_user("nobody", {"name": "t"})
    with pytest.raises(NotFound):
        here.tokens.issue_for("nobody", {"name": "t"})


# -- the owner's tokens -----------------------------------------------------------------------------------------------


def test_somebody_elses_token_is_not_there(here: People):
    row, token = issued(here)
    here.user("bob")
    bob = here.signed_in("bob")
    for attempt in (
        lambda: here.tokens.get(bob.user_id, row.id),
        lambda: here.tokens.change(bob, row.id, {"name": "x"}),
        lambda: here.tokens.rotate(bob, row.id),
        lambda: here.tokens.revoke(bob, row.id),
        lambda: here.tokens.get(bob.user_id, "missing"),
    ):
        with pytest.raises(NotFound) as refused:
            attempt()
        assert refused.value.message == "There is no such token."
    assert here.tokens.list(bob.user_id) == ([], None)
    assert here.tokens.identify(token)


def test_tokens_are_listed_newest_first_in_pages_without_gap_or_repetition(here: People):
    made = [issued(here)[0].id for _ in range(5)]
    owner = here.signed_in().user_id
    found, after = [], None
    for _ in range(3):
        rows, after = here.tokens.list(owner, limit=2, after=after)
        found += [row.id for row in rows]
    assert (found, after) == (made[::-1], None)
    with pytest.raises(InvalidRequest):
        here.tokens.list(owner, limit=2, after="nothing")


def test_a_change_acts_at_once_and_leaves_the_rest(here: People):
    row, token = issued(here, requests_per_minute=5, tags=["x"])
    assert here.tokens.identify(token).requests_per_minute == 5
    here.tokens.change(here.signed_in(), row.id, {"requests_per_minute": 7})
    principal = here.tokens.identify(token)
    assert (principal.requests_per_minute, principal.tags) == (7, ("x",))
    here.tokens.change(here.signed_in(), row.id, {"requests_per_minute": None, "scopes": ["webhook"]})
    assert here.tokens.identify(token).scopes == {"webhook"}


def test_a_change_cannot_pass_the_owners_scopes(here: People):
    row, _ = issued(here)
    with pytest.raises(Forbidden):
        here.tokens.change(here.signed_in(), row.id, {"scopes": ["admin"]})


def test_a_dead_token_is_not_changed_back_to_life(here: People):
    row, _ = issued(here)
    here.tokens.revoke(here.signed_in(), row.id)
    for attempt in (
        lambda: here.tokens.change(here.signed_in(), row.id, {"name": "x"}),
        lambda: here.tokens.rotate(here.signed_in(), row.id),
    ):
        with pytest.raises(Conflict):
            attempt()


# -- revoking and rotating --------------------------------------------------------------------------------------------


def test_a_revoked_token_is_told_as_revoked_at_once(here: People):
    row, token = issued(here)
    here.tokens.identify(token)
    here.tokens.revoke(here.signed_in(), row.id)
    with pytest.raises(TokenRevoked):
        here.tokens.identify(token)


def test_revoking_twice_keeps_the_first_moment(here: People):
    row, _ = issued(here)
    here.tokens.revoke_any(row.id)
    first = here.tokens.get(None, row.id).revoked_at
    here.tokens.revoke_any(row.id)
    assert here.tokens.get(None, row.id).revoked_at == first


def test_a_revocation_acts_on_another_process_within_a_second(here: People, there: People):
    row, token = issued(here)
    there.tokens.identify(token)
    here.tokens.revoke_any(row.id)
    assert within_a_second(lambda: is_refused(there, token))


def test_after_a_rotation_both_texts_work_for_a_while(here: People):
    row, old = issued(here)
    _, new = here.tokens.rotate(here.signed_in(), row.id)
    assert here.tokens.identify(old).token_id == here.tokens.identify(new).token_id == row.id
    with here.database.transaction() as session:
        session.execute(update(ApiToken).values(previous_until=now() - timedelta(seconds=1)))
    here.tokens._recent.forget()
    assert here.tokens.identify(new)
    with pytest.raises(TokenRevoked):
        here.tokens.identify(old)


def test_the_grace_covers_one_generation(here: People):
    row, first = issued(here)
    here.tokens.rotate(here.signed_in(), row.id)
    here.tokens.rotate(here.signed_in(), row.id)
    with pytest.raises(Unauthenticated):
        here.tokens.identify(first)


def test_without_grace_the_old_text_is_dead_at_once(here: People):
    row, old = issued(here)
    here.tokens.identify(old)
    here.tokens.rotate(here.signed_in(), row.id, grace_s=0)
    with pytest.raises(Unauthenticated):
        here.tokens.identify(old)


def test_revoking_ends_both_texts(here: People):
    row, old = issued(here)
    _, new = here.tokens.rotate_any(row.id)
    here.tokens.revoke_any(row.id)
    assert is_refused(here, old)
    assert is_refused(here, new)


@pytest.mark.parametrize("grace_s", [-1, 31 * 86_400])
def test_a_grace_is_bounded(here: People, grace_s: int):
    row, _ = issued(here)
    with pytest.raises(InvalidRequest):
        here.tokens.rotate_any(row.id, grace_s=grace_s)


# -- the service user -------------------------------------------------------------------------------------------------


def test_a_service_token_without_scopes_gets_all_that_need_no_grant(here: People):
    _, token = here.tokens.issue_for_service(name="t", document={})
    assert here.tokens.identify(token).scopes == {"chat", "embeddings", "images", "batch", "webhook"}


def test_the_environments_token_may_use_webhook_and_chat(here: People):
    operator = people(here.database, environment_token=ENVIRONMENT_TOKEN)
    principal = operator.tokens.identify(ENVIRONMENT_TOKEN)
    assert (principal.username, principal.scopes) == ("service", {"webhook", "chat"})
    assert principal.token_id == "environment"
    assert not principal.is_admin


def test_without_a_token_in_the_environment_its_text_is_nothing(here: People):
    with pytest.raises(Unauthenticated):
        here.tokens.identify(ENVIRONMENT_TOKEN)


def test_the_environments_token_dies_with_the_service_user(here: People):
    operator = people(here.database, environment_token=ENVIRONMENT_TOKEN)
    operator.tokens.identify(ENVIRONMENT_TOKEN)
    with here.database.transaction() as session:
        session.execute(update(User).where(User.username == "service").values(status="disabled"))
    operator.tokens._recent.forget()
    with pytest.raises(Unauthenticated):
        operator.tokens.identify(ENVIRONMENT_TOKEN)
