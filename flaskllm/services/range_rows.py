"""One row of a range: what was answered to it before, and how it is asked."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from flaskllm.domain.batch import COMPLETED, Ended, Keep
from flaskllm.domain.call import CallContext
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.principal import Principal
from flaskllm.domain.prompt import PromptAnswer, PromptTemplate
from flaskllm.domain.range import RowQuestion
from flaskllm.domain.spreadsheet import values_of
from flaskllm.errors import BudgetExceeded, NobodyWell, ProvidersBusy, RateLimited, Unavailable
from flaskllm.repositories.answers import AnswerStore
from flaskllm.repositories.database import Database
from flaskllm.repositories.ledger import now_ms
from flaskllm.repositories.ranges import holds_money
from flaskllm.services.batch_worker import failed
from flaskllm.services.model_router import ModelRouter
from flaskllm.services.prompts import PromptService, request_of

log = logging.getLogger(__name__)

DAY_S = 86_400
LOOK_AGAIN_S = 0.5
"""Where a cap has no room because other rows of the range hold it."""
FILTERED = "content_filter"
"""How an answer ends that a filter cut: it may be whole the next time."""


class RowCache:
    """Answers to rows, for their owner alone. ``kept_s``: how long they serve; 0 switches it off."""

    def __init__(self, store: AnswerStore, router: ModelRouter, *, kept_s: float) -> None:
        self._store, self._router, self._kept_s = store, router, kept_s

    def keys_for(self, principal: Principal, template: PromptTemplate, asked: ChatRequest) -> Callable[[Any], str]:
        """What gives the key of a row by its messages, where all else is as in ``asked``: owner, template with its
        version, model with what its name stands for now, parameters. Raises what the router does.
        """
        named, route = self._router.named(asked, principal)
        same = {
            "owner": principal.user_id,
            "template": [template.name, template.version, template.kind],
            "model": asked.model,
            "of": [[provider.id, model.name, model.backend_model] for provider, model in named],
            "route": route and asdict(route),
            "params": asked.params,
            "drop_params": principal.drop_params,
        }
        head = hashlib.sha256(b"flaskllm range row\x00" + json.dumps(same, sort_keys=True).encode())

        def key(messages: Any) -> str:
            digest = head.copy()
            digest.update(json.dumps(messages, separators=(",", ":")).encode())
            return digest.hexdigest()

        return key

    def find(self, keys: Iterable[str]) -> dict[str, Ended]:
        """Those that were answered before. A cache that is away is an empty one."""
        if not self._kept_s:
            return {}
        try:
            found = self._store.get_many(list(keys))
        except Unavailable:
            return {}
        read = {key: _read(raw) for key, raw in found.items()}
        return {key: ended for key, ended in read.items() if ended is not None}

    def put(self, key: str, ended: Ended) -> None:
        """Keep an answer, unless a filter cut it."""
        if not self._kept_s or ended.finish_reason == FILTERED:
            return
        kept = json.dumps({"text": ended.text, "values": json.loads(ended.response or "{}")["values"]})
        try:
            self._store.put(key, kept.encode(), kept_s=self._kept_s)
        except Unavailable:
            log.warning("the answer to a row could not be put into the cache")


def _read(raw: bytes) -> Ended | None:
    """None for what another version wrote."""
    try:
        kept = json.loads(raw)
        return answered(kept["text"], kept["values"], cached=True)
    except (KeyError, TypeError, ValueError):
        return None


def answered(text: str, values: Iterable[str] = (), *, cached: bool = False) -> Ended:
    """The result of a row that nobody need be asked for."""
    response = json.dumps({"values": list(values), "cached": cached})
    return Ended(COMPLETED, text=text, cost=0, response=response)


class RowRunner:
    """Answers the rows of ranges for `BatchWorker`. ``seconds``: how long one may take, all attempts together."""

    def __init__(self, database: Database, prompts: PromptService, cache: RowCache, *, seconds: float) -> None:
        self._db, self._prompts, self._cache = database, prompts, cache
        self._seconds = seconds

    def __call__(self, question: Mapping[str, Any], call: CallContext, keep: Keep) -> Ended:
        row = RowQuestion.of(question)
        try:
            return self._answer(row, _call_for(row, call, self._seconds), keep)
        except (ProvidersBusy, NobodyWell) as error:
            if now_ms() < row.until:
                raise
            return failed(error)
        except BudgetExceeded as error:
            if row.cap is not None and self._is_held(row.cap.id):
                raise RateLimited(error.message, retry_after=LOOK_AGAIN_S) from None
            return failed(error)

    def _is_held(self, budget_id: str) -> bool:
        """Whether other rows hold money that they may not take after all."""
        with self._db.reading() as session:
            return holds_money(session, budget_id)

    def _answer(self, row: RowQuestion, call: CallContext, keep: Keep) -> Ended:
        template = self._prompts.template(row.ask, call.principal)
        request = request_of(row.ask, template)
        key = self._cache.keys_for(call.principal, template, request)(request.messages)
        if not row.fresh and (before := self._cache.find([key]).get(key)) is not None:
            return before
        given: list[Ended] = []

        def take(told: PromptAnswer) -> Ended:
            given.append(_ended(told))
            self._cache.put(key, given[-1])
            return given[-1]

        told = self._prompts.answer(row.ask, call, lambda told: keep(take(told)))
        return given[-1] if given else take(told)


def _call_for(row: RowQuestion, call: CallContext, seconds: float) -> CallContext:
    """The call with what the range adds: a shorter deadline, its cap, and what its sender said of himself."""
    principal = call.principal
    if row.cap is not None:
        principal = replace(principal, budgets=(*principal.budgets, row.cap))
    return replace(
        call,
        principal=principal,
        deadline=min(call.deadline, time.monotonic() + seconds),
        claims=row.claims,
        uses_cache=False if row.fresh else principal.cache or None,
    )


def _ended(told: PromptAnswer) -> Ended:
    """An answer as the result of its row."""
    answer, usage = told.answer, told.usage
    values = values_of(told.kind, told.text, told.result)
    return Ended(
        COMPLETED,
        text=told.text,
        finish_reason=answer.result.finish_reason,
        model=told.model[:256],
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cost=told.cost,
        response=json.dumps({"values": list(values), "cached": answer.cache == "hit"}),
    )
