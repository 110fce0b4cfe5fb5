"""The ledger: money is taken before a call goes out and settled once after it (``docs/promises.md``, Money).

``finally`` is no place to record spend: a killed process runs none. So the attempt's row, and what it holds of every
budget, is committed before the first byte leaves; and a row whose process died is settled at its bound by the reaper.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.period import period_key, seconds_to_end
from flaskllm.domain.pricing import Price, bound_of, breakdown_of, cost_of
from flaskllm.domain.principal import Budget, Principal
from flaskllm.domain.quota import BUDGET_PREFIX, INSTALLATION, RANGE_PREFIX
from flaskllm.domain.usage import PARTS, Usage, is_possible
from flaskllm.errors import BudgetExceeded, ModelFull, RateLimited, Unavailable
from flaskllm.repositories.ledger import (
    MOST_SUM,
    Expired,
    Hold,
    InFlight,
    Record,
    Reserve,
    Settle,
    SettleAndReserve,
    holds_from_json,
    holds_to_json,
    new_row_id,
    now_ms,
)
from flaskllm.services import crash

log = logging.getLogger(__name__)

SETTLED, RELEASED, INTERRUPTED = "settled", "released", "interrupted"
TAKEN_OVER = ("request_id", "user_id", "token_id", "door", "model", "backend_model", "provider", "started_at", "tags")
DEFAULT_OUTPUT_CAP = 4096
"""Output tokens taken as the bound where neither the caller nor the catalogue names one."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt whose row is committed: what it holds, until it is settled."""

    id: int
    candidate: Candidate
    amount: int
    holds: tuple[Hold, ...]
    most: Usage
    number: int
    price: Price | None

    @property
    def prompt_tokens(self) -> int:
        """Of the question, by estimate."""
        return self.most.prompt_tokens

    def believed(self, told: Usage | None, *, pieces: int = 1) -> Usage | None:
        """A provider's word on what was taken; None where no call could have taken that much, so that it is estimated.

        A budget is not spent by a number that somebody mistyped. ``pieces``: choices, inputs or images asked for.
        """
        model = self.candidate.model
        if told is None or is_possible(
            told, window=model.context_window, prompt_estimate=self.prompt_tokens, pieces=max(1, pieces)
        ):
            return told
        fields = {"attempt": self.id, "provider": self.candidate.provider.id, "model": model.backend_model}
        counts = {"prompt_tokens": told.prompt_tokens, "completion_tokens": told.completion_tokens}
        log.warning("a provider told an impossible usage; it is estimated", extra={"fields": fields | counts})
        return None


class Asked(Protocol):
    """What the ledger has to know of any request."""

    @property
    def model(self) -> str | None: ...

    @property
    def provider(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Bound:
    """What one attempt may come to: ``amount`` in 10⁻⁹ dollar, the usage behind it, and the price in force."""

    amount: int
    most: Usage
    price: Price | None


class Ledger:
    """``run`` commits one operation of `repositories.ledger` and gives its result; ``lease_s`` is what a row lives
    beyond its call's deadline before the reaper takes it."""

    def __init__(self, run: Callable[[Any], Any], *, zone: ZoneInfo, lease_s: float) -> None:
        self._run = run
        self._zone = zone
        self._lease_s = lease_s
        self._late: deque[Settle | Record] = deque()

    def reserve(
        self,
        request: Asked,
        candidate: Candidate,
        call: CallContext,
        *,
        number: int,
        seconds: float,
        bound: Bound,
        most_of_model: int | None = None,
        after: Settle | None = None,
    ) -> Attempt:
        """Commit the row of one attempt that may take ``seconds``, and hold its bound in every budget of the caller.

        ``most_of_model``: calls that its model may have in flight. ``after``: how the attempt before it ended, where
        that is not committed yet; it is, unless this raises `Unavailable`. Raises `BudgetExceeded`, `RateLimited` for
        calls in flight of the caller, `ModelFull` for those of the model, `Unavailable`.
        """
        crash.point(crash.BEFORE_RESERVE)
        holds = self._holds(call.principal.budgets)
        operation = Reserve(
            self._row(request, candidate, call, number=number, bound=bound, holds=holds, seconds=seconds),
            bound.amount,
            holds,
            _in_flight(candidate, call.principal, most_of_model),
        )
        lacking = self._reserved(operation, after)
        if isinstance(lacking, InFlight):
            raise _too_many(lacking)
        if lacking is not None:
            raise self._exceeded(lacking, call.principal.budgets)
        return Attempt(
            id=operation.row["id"],
            candidate=candidate,
            amount=bound.amount,
            holds=holds,
            most=bound.most,
            number=number,
            price=bound.price,
        )

    def _reserved(self, operation: Reserve, after: Settle | None) -> Hold | InFlight | None:
        """What had no room, or None. Of a commit whose outcome is unknown nothing may stay: no call comes of it."""
        try:
            found: Hold | InFlight | None = self._run(SettleAndReserve(after, operation) if after else operation)
        except Unavailable as error:
            if error.may_be_written:
                self._late.append(_released(operation))
            raise
        return found

    def _row(
        self,
        request: Asked,
        candidate: Candidate,
        call: CallContext,
        *,
        number: int,
        bound: Bound,
        holds: tuple[Hold, ...],
        seconds: float,
    ) -> dict[str, Any]:
        started = now_ms()
        price = bound.price
        return {
            "id": new_row_id(),
            "request_id": call.request_id,
            "number": number,
            "user_id": call.principal.user_id,
            "token_id": call.principal.token_id,
            "door": call.door,
            "model": asked_name(request),
            "backend_model": candidate.model.backend_model,
            "provider": candidate.provider.id,
            "endpoint": candidate.endpoint.id,
            "price_version": price.version if price else "",
            "reserved": bound.amount,
            "priced": price is not None,
            "holds": holds_to_json(holds),
            "no": False,
            "started_at": started,
            "tags": tags_text(call.principal.tags),
            "lease_until": started + int((seconds + self._lease_s) * 1000),
        }

    def _holds(self, budgets: tuple[Budget, ...]) -> tuple[Hold, ...]:
        if not budgets:
            return ()
        at = datetime.now(self._zone)
        return tuple(_hold_of(budget, period_key(budget.period, at)) for budget in budgets)

    def _exceeded(self, lacking: Hold, budgets: tuple[Budget, ...]) -> BudgetExceeded:
        at = datetime.now(self._zone)
        budget = next(one for one in budgets if one.id == lacking.id and period_key(one.period, at) == lacking.period)
        return BudgetExceeded(
            f"The budget of {_whose(budget.id)} for the {budget.period} does not allow this call.",
            retry_after=seconds_to_end(budget.period, self._zone),
        )

    def settle(
        self,
        attempt: Attempt,
        *,
        state: str,
        usage: Usage,
        error_code: str | None = None,
        call: dict[str, Any] | None = None,
        beside: Any = None,
    ) -> int | None:
        """The attempt is over: ``settled`` at what it took, or ``released``. ``call``: its call's row, if that is over.

        ``beside``: an operation of the repositories to be written in the same transaction.

        Gives the cost in 10⁻⁹ dollar, None where the model has no price. A second settlement changes nothing.
        """
        settlement = self.settlement(attempt, state=state, usage=usage, error_code=error_code)
        settlement.call, settlement.beside = call, beside
        crash.point(crash.BEFORE_SETTLE)
        self.write_settlement(settlement)
        crash.point(crash.AFTER_SETTLE)
        return settlement.values["cost"]

    def settlement(self, attempt: Attempt, *, state: str, usage: Usage, error_code: str | None = None) -> Settle:
        """The same, not committed yet."""
        cost = self.price(attempt, state, usage)
        _warn_of_excess(attempt, usage)
        values = {
            "id": attempt.id,
            "state": state,
            "cost": cost,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "usage": json.dumps(breakdown_of(usage, attempt.price)),
            "estimated": usage.estimated,
            "error_code": error_code,
            "settled_at": now_ms(),
        }
        return Settle(values, attempt.amount, cost or 0, attempt.holds)

    @staticmethod
    def price(attempt: Attempt, state: str, usage: Usage) -> int | None:
        """What this end of an attempt costs in 10⁻⁹ dollar; None where the model has no price."""
        return 0 if state == RELEASED else cost_of(usage, attempt.price)

    def write_settlement(self, settle: Settle) -> None:
        """A settlement that cannot be committed is kept and tried again while the process lives."""
        self._write_now_or_later(settle, {"attempt": settle.values["id"]})

    def _write_now_or_later(self, operation: Settle | Record, fields: dict[str, Any]) -> None:
        """A settlement may be written twice, for the second changes nothing; a call's row may not."""
        try:
            self._run(operation)
        except Unavailable as error:
            log.error("what a call came to waits for the database", extra={"fields": fields})
            if isinstance(operation, Settle) or not error.may_be_written:
                self._late.append(operation)

    def record(self, call: dict[str, Any]) -> None:
        """The row of a call that ended without a last attempt; never fails the call."""
        self._write_now_or_later(Record(call), {"request_id": call["request_id"]})

    def retry_late(self) -> int:
        """Try the settlements again that found the database away. Gives how many still wait."""
        for _ in range(len(self._late)):
            operation = self._late.popleft()
            self._write_now_or_later(operation, {})
            if self._late and self._late[-1] is operation:
                break  # still away: the others would only wait for it, one after the other
        return len(self._late)

    def reap(self) -> int:
        """Settle what dead processes left, at its bound, and say so: ``interrupted``. Gives how many."""
        rows = self._run(Expired(now_ms()))
        for row in rows:
            if self._run(_interrupted(row)):
                log.warning("an attempt was left open and is settled at its bound", extra={"fields": _named(row)})
        return len(rows)


def _hold_of(budget: Budget, period: str) -> Hold:
    return Hold(budget.id, period, budget.amount if budget.hard else MOST_SUM, budget.amount, budget.alert)


def _warn_of_excess(attempt: Attempt, usage: Usage) -> None:
    """A budget holds only where a provider keeps to the bound that it was sent; who does not is told of, loudly."""
    if attempt.holds and usage.completion_tokens > attempt.most.completion_tokens:
        fields = {"attempt": attempt.id, "provider": attempt.candidate.provider.id, "model": attempt.candidate.name}
        tokens = {"most": attempt.most.completion_tokens, "completion_tokens": usage.completion_tokens}
        log.error("a provider billed beyond max_tokens: a budget may be overspent", extra={"fields": fields | tokens})


def _whose(budget_id: str) -> str:
    """A budget's owner, in words."""
    if budget_id.startswith("token:"):
        return "this token"
    if budget_id.startswith(RANGE_PREFIX):
        return "this range (max_cost)"
    if budget_id.startswith(f"{BUDGET_PREFIX}tag:"):
        return f"the tag {budget_id.removeprefix(f'{BUDGET_PREFIX}tag:')}"
    return "this installation" if budget_id == BUDGET_PREFIX + INSTALLATION else "this account"


def _in_flight(candidate: Candidate, principal: Principal, most_of_model: int | None) -> tuple[InFlight, ...]:
    """Every bound on calls at once that this one falls under."""
    found = []
    if principal.token_id is not None and principal.concurrency is not None:
        found.append(InFlight("token", principal.token_id, principal.concurrency))
    if principal.of_user is not None and principal.of_user.concurrency is not None:
        found.append(InFlight("user", principal.user_id, principal.of_user.concurrency))
    if most_of_model is not None:
        found.append(InFlight("model", f"{candidate.provider.id}/{candidate.model.backend_model}", most_of_model))
    return tuple(found)


def _too_many(bound: InFlight) -> RateLimited | ModelFull:
    if bound.what == "model":
        return ModelFull(f"The model {bound.key} has as many calls in flight as it may.", retry_after=1)
    whose = "token" if bound.what == "token" else "account"
    return RateLimited(f"The {whose} has as many calls in flight as it may.", retry_after=1)


def _named(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("request_id", "user_id", "model", "provider", "reserved")}


def _released(reserve: Reserve) -> Settle:
    """The end of an attempt that never went out, should its row be there at all."""
    values = {
        "id": reserve.row["id"],
        "state": RELEASED,
        "cost": 0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "usage": None,
        "estimated": False,
        "error_code": Unavailable.code,
        "settled_at": now_ms(),
    }
    return Settle(values, reserve.amount, 0, reserve.holds)


def _interrupted(row: dict[str, Any]) -> Settle:
    cost = row["reserved"] if row["priced"] else None
    of_call = row["before"] + cost if cost is not None else None
    values = {
        "id": row["id"],
        "state": INTERRUPTED,
        "cost": cost,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "usage": None,
        "estimated": True,
        "error_code": INTERRUPTED,
        "settled_at": now_ms(),
    }
    call = {
        **{name: row[name] for name in TAKEN_OVER},
        "id": new_row_id(),
        "finished_at": now_ms(),
        "latency_ms": now_ms() - row["started_at"],
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "cost": of_call,
        "saved": None,
        "status": 499,
        "error_code": INTERRUPTED,
        "attempts": row["number"],
        "streamed": False,
        "estimated": True,
        "correlation_id": None,
        "claimed_user": None,
        "client_id": None,
        "metadata": None,
        **dict.fromkeys((*PARTS, "first_token_ms")),
    }
    return Settle(values, row["reserved"], row["reserved"], holds_from_json(row["holds"]), call)


def output_cap(request: ChatRequest, candidate: Candidate) -> int:
    """The most output tokens this call can come to, for one choice."""
    return request.output_cap or candidate.model.max_tokens or DEFAULT_OUTPUT_CAP


def chat_bound(request: ChatRequest, candidate: Candidate, prompt_tokens: int) -> Bound:
    """What an answer in words may come to."""
    tokens, price = output_cap(request, candidate) * request.choices, candidate.model.price
    return Bound(bound_of(prompt_tokens, tokens, price), Usage(prompt_tokens, output=tokens, estimated=True), price)


def tags_text(tags: Sequence[str]) -> str | None:
    """Tags as the rows keep them: JSON in one order, so that equal ones are one group; None where there are none.

    >>> tags_text(("b", "a"))
    '["a","b"]'
    """
    return json.dumps(sorted(set(tags)), ensure_ascii=False, separators=(",", ":")) if tags else None


def asked_name(request: Asked) -> str:
    """The model as it was asked for, for the rows and the log."""
    name = request.model or "default"
    return f"{request.provider}/{name}"[:160] if request.provider else name[:160]
