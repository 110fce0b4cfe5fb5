"""The webhook's use case: which template, what a typed answer is, whether to ask again."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

from flaskllm.domain.answer import Answer
from flaskllm.domain.call import CallContext
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.principal import Principal
from flaskllm.domain.prompt import PromptAnswer, PromptAsk, PromptKind, PromptTemplate
from flaskllm.domain.text import holdable
from flaskllm.domain.typed_answer import Malformed, expected_form, parse
from flaskllm.domain.usage import sum_of
from flaskllm.errors import DomainError, Forbidden
from flaskllm.services.chat_orchestrator import ChatOrchestrator
from flaskllm.services.templates import TemplateService

log = logging.getLogger(__name__)

MOST_SHOWN = 4_000
"""Characters of a malformed answer that the model is shown again."""


class PromptService:
    """Asks a model by template and reads what it says."""

    def __init__(self, orchestrator: ChatOrchestrator, templates: TemplateService) -> None:
        self._chat = orchestrator
        self._templates = templates

    def answer(self, ask: PromptAsk, call: CallContext) -> PromptAnswer:
        """Ask, and once more where the answer is not of the form that was asked for.

        Raises `NotFound` for an unknown template, `Forbidden` for one that the token may not use, and what
        `ChatOrchestrator.complete` raises.
        """
        template = self._template(ask, call.principal)
        if template.cache and call.uses_cache is None:
            call = replace(call, uses_cache=True)
        messages = ask.messages(template)
        first = self._chat.complete(_request(ask, template, messages), call)
        try:
            return _read(template.kind, first, call)
        except Malformed as fault:
            again = [*messages, *_reproach(template.kind, first.text, fault)]
            return self._second(_request(ask, template, again), template.kind, first, call)

    def _template(self, ask: PromptAsk, principal: Principal) -> PromptTemplate:
        """The right comes before the look-up, so that a token cannot find out which templates there are."""
        if not principal.may_use_template(ask.template_name):
            raise Forbidden("This token may not use this template.")
        return self._templates.get(ask.template_name)

    def _second(self, request: ChatRequest, kind: PromptKind, first: Answer, call: CallContext) -> PromptAnswer:
        """Whatever becomes of the second asking, the caller gets the text that is paid for."""
        try:
            both = _together(first, self._chat.complete(request, call))
        except DomainError as error:
            log.info("a malformed answer could not be asked for again: %s", error.code)
            return _untyped(kind, first, call)
        try:
            return _read(kind, both, call)
        except Malformed:
            return _untyped(kind, both, call)


def _request(ask: PromptAsk, template: PromptTemplate, messages: list[dict[str, Any]]) -> ChatRequest:
    return ChatRequest(model=ask.model or template.model, messages=messages, params=dict(template.parameters))


def _read(kind: PromptKind, answer: Answer, call: CallContext) -> PromptAnswer:
    return replace(_untyped(kind, answer, call), result=parse(kind, answer.text))


def _untyped(kind: PromptKind, answer: Answer, call: CallContext) -> PromptAnswer:
    return PromptAnswer(holdable(answer.text), None, kind, answer, time.monotonic() - call.started)


def _reproach(kind: PromptKind, text: str, fault: Malformed) -> list[dict[str, Any]]:
    """The malformed answer, and what was wrong with it."""
    said = holdable(text)[:MOST_SHOWN] or "(nothing)"
    told = f"That cannot be read: {fault}. Answer again with {expected_form(kind)}, and nothing else."
    return [{"role": "assistant", "content": said}, {"role": "user", "content": told}]


def _together(first: Answer, second: Answer) -> Answer:
    """The second answer, with what both of them took."""
    costs = (first.cost, second.cost)
    return replace(
        second,
        usage=sum_of([first.usage, second.usage]),
        cost=None if None in costs else sum(cost for cost in costs if cost is not None),
        attempts=first.attempts + second.attempts,
        story=first.story + second.story,
        dropped=tuple(dict.fromkeys([*first.dropped, *second.dropped])),
    )
