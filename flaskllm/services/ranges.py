"""A column asked at once (``POST /api/v1/range``): what is new becomes a job, and whoever asks works on it himself.

A range is a job of the batch engine, so that nothing is lost or asked twice, whoever dies; the request works on its
rows until its deadline, and so does each that asks for the rest. Workers may take them too, and none is needed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from flaskllm.domain.batch import COMPLETED, INTERACTIVE, RANGES_DOOR, SAME, Ended, Job, NewItem, Submission
from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Model
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.estimate import prompt_estimate
from flaskllm.domain.pricing import dollars_text
from flaskllm.domain.principal import Budget, Principal
from flaskllm.domain.prompt import PromptAsk, PromptKind, PromptTemplate
from flaskllm.domain.quota import RANGE_PREFIX
from flaskllm.domain.range import ROWS_AT_ONCE, USUAL_DEADLINE_S, RangeAsk, RangeEstimate, RangeState, RowQuestion
from flaskllm.domain.spreadsheet import AnsweredRow, RowStatus
from flaskllm.errors import Conflict, InvalidRequest, NotFound, Unavailable, UnpricedModel, invalid, invalid_for
from flaskllm.models.types import new_id
from flaskllm.repositories import ranges as repository
from flaskllm.repositories.database import Database
from flaskllm.repositories.ledger import now_ms
from flaskllm.services.batch_worker import BatchWorker, Bounds, failed
from flaskllm.services.batches import BatchService, costs_of, seconds_for
from flaskllm.services.chat_orchestrator import Places
from flaskllm.services.model_router import ModelRouter
from flaskllm.services.prompts import PromptService, request_of
from flaskllm.services.range_rows import RowCache, answered

KIND = "range"
DOOR = RANGES_DOOR
SCOPE = "webhook"
PATIENCE_MS = 120_000
"""So long rows wait for providers that are not well; then they are errors, so that nobody asks for the rest forever."""
KEPT_MS = 24 * 3600 * 1000
"""How long the rest of a range may be asked for once all of it is there."""
LOOK_AGAIN_S = 0.2
"""Where others have the rows in hand, or a limit wants a pause."""
USUAL_CELL = 100
"""Tokens that an estimate takes for an answer that goes into a cell."""
PROBE = "text"
"""A row that stands for all of them where only what they share is looked at."""
LEASE_MORE_S = 5.0
"""Beyond what a row may take, where its lease is not renewed."""


class Unconfirmed(Conflict):
    """A range that is dearer than what may be spent unasked; ``estimate``: what it would take."""

    def __init__(self, estimate: RangeEstimate) -> None:
        words = f"must be true: {estimate.new_rows} new rows would cost about {dollars_text(estimate.cost)} US dollars"
        super().__init__(f"confirm: {words}", details=[{"field": "confirm", "message": words}])
        self.estimate = estimate


@dataclass(slots=True)
class _Plan:
    """What becomes of each row, in their order: the result that is known, or None for one that has to be asked.

    ``cost`` of all that are asked, about, and ``dearest``, the most that one of them may come to: in 10⁻⁹ dollar.
    """

    template: PromptTemplate
    rows: list[Ended | None] = field(default_factory=list)
    cost: int = 0
    dearest: int = 0


@dataclass(frozen=True, slots=True)
class RangeRules:
    """What the operator set. ``unasked``: the most that a range may cost about without being confirmed, in 10⁻⁹ dollar.
    ``longest``: characters of a row. ``row_seconds``: how long one may take. ``at_once``: requests of this process that
    may wait for rows; ``turns``: those of them that may have rows in hand. ``threads``: False where none ever run.
    """

    unasked: int
    longest: int
    row_seconds: float
    at_once: int
    turns: int
    threads: bool
    refuse_unpriced: bool = False


class RangeService:
    """Ranges as their owners see them."""

    def __init__(
        self,
        database: Database,
        batches: BatchService,
        worker: BatchWorker,
        prompts: PromptService,
        cache: RowCache,
        router: ModelRouter,
        rules: RangeRules,
    ) -> None:
        self._db, self._batches, self._worker = database, batches, worker
        self._prompts, self._cache, self._router = prompts, cache, router
        self._rules = rules
        refusal = "This process has as many ranges under way as it may."
        self._places = Places(rules.at_once if rules.threads else None, refusal)
        self._turns = threading.BoundedSemaphore(rules.turns)

    # -- in ---------------------------------------------------------------------------------------------------------

    def estimate(self, ask: RangeAsk, call: CallContext) -> RangeEstimate:
        """What it would take; nobody is asked. Raises as `ask` does."""
        return self._estimate(ask, self._plan(ask, call), call.principal)

    def ask(self, ask: RangeAsk, call: CallContext) -> RangeState:
        """The rows as far as they are at the deadline, counted from the call's start.

        Raises `InvalidRequest` for what is wrong with all rows, `Forbidden` or `NotFound` for template and model,
        `Unconfirmed`, `Unavailable`. What is wrong with one row is told in that row.
        """
        plan = self._plan(ask, call)
        estimate = self._estimate(ask, plan, call.principal)
        if estimate.cost > self._rules.unasked and not ask.confirm:
            raise Unconfirmed(estimate)
        if not estimate.new_rows:
            known = ((row.id, ended) for row, ended in zip(ask.rows, plan.rows, strict=True))
            return _state("", known, estimate, cell_safe=ask.cell_safe)
        release = self._places.take()
        try:
            job = self._submit(ask, plan, estimate, call)
            state = self._work(call.principal, job, call.started + ask.deadline_s)
        finally:
            release()
        if state.done:
            self._forget(call.principal, job)
        return state

    def go_on(self, principal: Principal, continuation: str) -> RangeState:
        """The same range once more, as far as it is at its own deadline, counted from now.

        Raises `NotFound`, also for a range of somebody else, or of a template that this token may not use.
        """
        started = time.monotonic()
        try:
            job = self._batches.get(principal, continuation, door=DOOR)
        except NotFound:
            raise _no_such() from None
        if not principal.may_use_template(job.details["template"]):
            raise _no_such()
        release = self._places.take()
        try:
            return self._work(principal, job, started + (job.details["deadline_s"] or USUAL_DEADLINE_S))
        finally:
            release()

    # -- what is to be asked -----------------------------------------------------------------------------------------

    def _plan(self, ask: RangeAsk, call: CallContext) -> _Plan:
        principal, probe = call.principal, ask.prompt(PROBE)
        template = self._prompts.template(probe, principal)
        try:
            asked = request_of(probe, template)
        except InvalidRequest as error:
            raise _of_all(error, template) from None
        model = self._priced(self._router.models(asked, principal))
        plan, questions = _Plan(template), self._questions(ask, template)
        plan.rows = [ended if isinstance(ended, Ended) else None for ended in questions]
        open_rows = {place: one for place, one in enumerate(questions) if isinstance(one, ChatRequest)}
        if call.uses_cache is not False:
            key_of = self._cache.keys_for(principal, template, asked)
            keys = {place: key_of(request.messages) for place, request in open_rows.items()}
            found = self._cache.find(keys.values())
            for place, key in keys.items():
                plan.rows[place] = found.get(key)
        for place, request in open_rows.items():
            if plan.rows[place] is None:
                usual, most = costs_of(request, model, _usual_answer(template, request))
                plan.cost, plan.dearest = plan.cost + usual, max(plan.dearest, most)
        return plan

    def _priced(self, models: Sequence[Model]) -> Model:
        """The model that will be asked. Raises `UnpricedModel` where that is refused."""
        if not self._rules.refuse_unpriced:
            return models[0]
        priced = next((model for model in models if model.price is not None), None)
        if priced is None:
            raise UnpricedModel(f"The model {models[0].name} has no price, and this gateway refuses unpriced models.")
        return priced

    def _questions(self, ask: RangeAsk, template: PromptTemplate) -> list[Ended | ChatRequest]:
        """Each row's question, or what nobody need be asked for: a blank row, one that stands above already, one that
        cannot be asked."""
        first: dict[str, int] = {}
        found: list[Ended | ChatRequest] = []
        for place, row in enumerate(ask.rows):
            above = first.setdefault(row.text, place)
            if not row.text.strip():
                found.append(answered(""))
            elif above != place:
                found.append(Ended(SAME, text=str(above)))
            elif len(row.text) > self._rules.longest:
                found.append(failed(invalid("prompt", f"must have at most {self._rules.longest} characters")))
            else:
                found.append(_question(ask.prompt(row.text), template))
        return found

    def _estimate(self, ask: RangeAsk, plan: _Plan, principal: Principal) -> RangeEstimate:
        new_rows = plan.rows.count(None)
        return RangeEstimate(len(ask.rows), new_rows, plan.cost, seconds_for(new_rows, ROWS_AT_ONCE, principal))

    def _submit(self, ask: RangeAsk, plan: _Plan, estimate: RangeEstimate, call: CallContext) -> Job:
        """The range as a job. Where its cap leaves room for a few rows only, no more are asked at once."""
        cap, together = None, ROWS_AT_ONCE
        if ask.most_cost is not None:
            cap = Budget(RANGE_PREFIX + new_id(), ask.most_cost, "total")
            together = max(1, min(ROWS_AT_ONCE, ask.most_cost // max(1, plan.dearest)))
        submission = Submission(
            kind=KIND,
            door=DOOR,
            scope=SCOPE,
            model=ask.model,
            metadata=call.metadata,
            max_concurrency=together,
            priority=INTERACTIVE,
            details={
                "template": plan.template.name,
                "deadline_s": ask.deadline_s,
                "cell_safe": ask.cell_safe,
                "cap": cap and cap.id,
                "estimate": [estimate.rows, estimate.new_rows, estimate.cost, estimate.seconds],
            },
        )
        question = RowQuestion(ask.prompt(""), now_ms() + PATIENCE_MS, cap, call.uses_cache is False, call.claims)
        items = (
            NewItem({} if ended else replace(question, ask=ask.prompt(row.text)).to_json(), row.id, ended)
            for row, ended in zip(ask.rows, plan.rows, strict=True)
        )
        return self._batches.submit(call.principal, submission, items)

    # -- and on -----------------------------------------------------------------------------------------------------

    def _work(self, principal: Principal, job: Job, until: float) -> RangeState:
        """Work on what is open, or wait for those who do, until all is there or the time is over."""
        while job.finished_at is None and (left := until - time.monotonic()) > 0:
            if not self._one_turn(job.id, left):
                time.sleep(max(0.0, min(LOOK_AGAIN_S, until - time.monotonic())))
            job = self._batches.get(principal, job.id, door=DOOR)
        known = ((item.custom_id or "", item.result) for item in self._batches.all_items(job))
        estimate = RangeEstimate(*job.details["estimate"])
        return _state(job.id, known, estimate, cell_safe=job.details["cell_safe"])

    def _one_turn(self, job_id: str, left: float) -> int:
        """Ask rows that are open, and wait for them for ``left`` seconds; what is in hand then ends by itself.

        Gives how many were taken.
        """
        if not self._rules.threads:
            return self._worker.work_alone(job_id, seconds=left, lease_s=self._rules.row_seconds + LEASE_MORE_S)
        if not self._turns.acquire(timeout=min(left, LOOK_AGAIN_S)):
            return 0
        turn = _Turn(self._worker, Bounds(job_id=job_id, seconds=left, places=ROWS_AT_ONCE), self._turns)
        turn.start()
        turn.join(left)
        return turn.taken

    def _forget(self, principal: Principal, job: Job) -> None:
        """All of it was given back: neither its questions nor its answers are kept, but for the cache."""
        if cap := job.details["cap"]:
            with self._db.transaction() as session:
                repository.forget_budget(session, cap)
        self._batches.delete(principal, job.id)

    def sweep(self) -> None:
        """Forget ranges that ended a day ago."""
        with self._db.reading() as session:
            found = repository.ended_before(session, DOOR, now_ms() - KEPT_MS)
        for job_id, user_id in found:
            owner = Principal(user_id, "")
            self._forget(owner, self._batches.get(owner, job_id))


class _Turn(threading.Thread):
    """One turn of the worker that goes on after who began it has answered. ``taken``: rows, once it is over."""

    def __init__(self, worker: BatchWorker, bounds: Bounds, turns: threading.BoundedSemaphore) -> None:
        super().__init__(name="range", daemon=True)
        self._worker, self._bounds, self._turns = worker, bounds, turns
        self.taken = 0

    def run(self) -> None:
        try:
            self.taken = self._worker.work(self._bounds)
        finally:
            self._turns.release()

    def start(self) -> None:
        try:
            super().start()
        except RuntimeError:
            self._turns.release()
            raise Unavailable("This process can start no more threads.", retry_after=1) from None


def _usual_answer(template: PromptTemplate, request: ChatRequest) -> int:
    """Tokens of an answer: a translation is about as long as its text."""
    if template.kind is PromptKind.TRANSLATION:
        return max(USUAL_CELL, prompt_estimate(request.messages))
    return USUAL_CELL


def _question(ask: PromptAsk, template: PromptTemplate) -> Ended | ChatRequest:
    try:
        return request_of(ask, template)
    except InvalidRequest as error:
        return failed(error)


def _of_all(error: InvalidRequest, template: PromptTemplate) -> InvalidRequest:
    """What is wrong with every row, by the names of the fields that a range has."""
    words = f"the template {template.name} does not fit a range:"
    return invalid_for([
        detail if detail["field"] in ("language", "type")
        else {"field": "template", "message": f"{words} {detail['field']} {detail['message']}"}
        for detail in error.details
    ])  # fmt: skip


def _state(
    continuation: str, rows: Iterable[tuple[str, Ended | None]], estimate: RangeEstimate, *, cell_safe: bool
) -> RangeState:
    told: list[AnsweredRow] = []
    for row_id, ended in rows:
        if ended is not None and ended.state == SAME:
            told.append(_copy(told[int(ended.text)], row_id))
        else:
            told.append(_row(row_id, ended))
    return RangeState(told, continuation, sum(row.cost for row in told), estimate, cell_safe)


def _copy(row: AnsweredRow, row_id: str) -> AnsweredRow:
    """An equal row was not asked, so it cost nothing."""
    return replace(row, id=row_id, cost=0)


def _row(row_id: str, ended: Ended | None) -> AnsweredRow:
    if ended is None:
        return AnsweredRow(row_id, RowStatus.PENDING)
    if ended.state != COMPLETED:
        code, message = ended.error_code or ended.state, ended.error_message or "This row was not asked."
        return AnsweredRow(row_id, RowStatus.ERROR, error_code=code, error_message=message)
    typed = json.loads(ended.response or "{}")
    return AnsweredRow(
        row_id,
        RowStatus.OK,
        text=ended.text,
        values=tuple(typed.get("values", ())),
        cached=typed.get("cached", False),
        cost=ended.cost or 0,
    )


def _no_such() -> NotFound:
    return NotFound("There is no such continuation.")
