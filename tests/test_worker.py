"""``flask worker``: what a dead process left is settled, also where web processes have no threads."""

from __future__ import annotations

from flask import Flask
from sqlalchemy import text

from flaskllm.extensions import db
from flaskllm.repositories.ledger import Hold, Reserve, new_row_id, now_ms


def leave_behind(app: Flask, *, amount: int) -> None:
    """An attempt whose process died in the call, and whose lease has ended."""
    row = {
        "id": new_row_id(), "request_id": "r-1", "number": 1, "user_id": "u", "token_id": None, "door": "openai",
        "model": "gpt-4o", "backend_model": "gpt-4o", "provider": "openai", "endpoint": "", "price_version": "",
        "reserved": amount, "priced": True, "holds": '[["user:u", "total"]]', "no": False, "started_at": now_ms(),
        "lease_until": now_ms() - 1, "tags": '["x"]',
    }  # fmt: skip
    ledger = app.extensions["flaskllm"].ledger
    assert ledger._run(Reserve(row, amount, (Hold("user:u", "total", 10**9),))) is None


def test_what_a_dead_process_left_is_settled_at_its_bound_and_says_so(app: Flask) -> None:
    leave_behind(app, amount=700)
    done = app.test_cli_runner().invoke(args=["worker", "--once"])
    assert done.exit_code == 0, done.output
    with app.app_context(), db.engine.connect() as connection:
        attempt = connection.execute(text("SELECT state, cost, estimated FROM attempts")).one()
        call = connection.execute(text("SELECT status, error_code, cost, request_id, tags FROM calls")).one()
        budget = connection.execute(text("SELECT spent, reserved FROM budgets")).one()
    assert tuple(attempt) == ("interrupted", 700, 1)
    assert tuple(call) == (499, "interrupted", 700, "r-1", '["x"]')
    assert tuple(budget) == (700, 0)
