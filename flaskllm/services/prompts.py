"""The webhook's use case: which template, what a typed answer is, whether to ask again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flaskllm.domain.answer import Answer, Told
from flaskllm.domain.call import CallContext
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.principal import Principal
from flaskllm.domain.prompt import PromptAnswer, PromptAsk, PromptKind, PromptTemplate, PromptTrial
from flaskllm.domain.text import holdable
from flaskllm.domain.typed_answer import Malformed, expected_form, parse
from flaskllm.domain.usage import sum_of
from flaskllm.errors import DomainError, Forbidden
from flaskllm.services.chat_orchestrator import ChatOrchestrator
from flaskllm.services.templates import TemplateService

log = logging.getLogger(__name__)

MOST_SHOWN = 4_000
"""Characters of a malformed answer that the model is shown again."""


Keep = Callable[[PromptAnswer], Any]


class PromptService:
    """Asks a model by template and reads what it says."""

    def __init__(self, orchestrator: ChatOrchestrator, templates: TemplateService) -> None:
        self._chat = orchestrator
        self._templates = templates

    def answer(self, ask: PromptAsk, call: CallContext, keep: Keep | None = None) -> PromptAnswer:
        """Ask, and once more where the answer is not of the form that was asked for.

        ``keep``: makes, out of the answer that will be given, the write that goes with its settlement; it is not asked
        where the answer was settled before it was known to be that one, or came from the cache.

        Raises `NotFound` for an unknown template, `Forbidden` for one that the token may not use, and what
        `ChatOrchestrator.complete` raises.
        """
        template = self.template(ask, call.principal)
        if template.cache and call.uses_cache is None:
            call = replace(call, uses_cache=True)
        request = request_of(ask, template)
        first = self._chat.complete(request, _keeping(call, keep, lambda told: _well_formed(template.kind, told, call)))
        try:
            return _read(template.kind, first, call)
        except Malformed as fault:
            again = [*request.messages, *_reproach(template.kind, first.text, fault)]
            return self._second(replace(request, messages=again), template.kind, first, call, keep)

    def try_out(self, request: ChatRequest, kind: PromptKind, call: CallContext) -> PromptTrial:
        """Ask once, with a template that is filled in already (`request_of`), and tell what can be made of the answer.

        Raises what `ChatOrchestrator.complete` raises.
        """
        answer = self._chat.complete(request, call)
        try:
            return PromptTrial(_read(kind, answer, call))
        except Malformed as fault:
            return PromptTrial(_untyped(kind, answer, call), str(fault))

    def template(self, ask: PromptAsk, principal: Principal) -> PromptTemplate:
        """The template that serves it. Raises `Forbidden` and `NotFound`.

        The right comes before the look-up, so that a token cannot find out which templates there are.
        """
        if not principal.may_use_template(ask.template_name):
            raise Forbidden("This token may not use this template.")
        return self._templates.get(ask.template_name)

    def _second(
        self, request: ChatRequest, kind: PromptKind, first: Answer, call: CallContext, keep: Keep | None
    ) -> PromptAnswer:
        """Whatever becomes of the second asking, the caller gets the text that is paid for."""

        def given(second: Answer) -> PromptAnswer:
            both = _together(first, second)
            return _well_formed(kind, both, call) or _untyped(kind, both, call)

        try:
            return given(self._chat.complete(request, _keeping(call, keep, given)))
        except DomainError as error:
            log.info("a malformed answer could not be asked for again: %s", error.code)
            return _untyped(kind, first, call)


def request_of(ask: PromptAsk, template: PromptTemplate) -> ChatRequest:
    """What a model is asked. Raises `InvalidRequest` where the template cannot be filled in."""
    messages = ask.messages(template)
    return ChatRequest(model=ask.model or template.model, messages=messages, params=dict(template.parameters))


def _keeping(call: CallContext, keep: Keep | None, given: Callable[[Answer], PromptAnswer | None]) -> CallContext:
    """The call, with ``keep`` told of what is given for its answer, if that is given at all."""
    if keep is None:
        return call

    def beside(told: Told[Any]) -> Any:
        answer = given(Answer(**vars(told)))
        return None if answer is None else keep(answer)

    return replace(call, keep=beside)


def _well_formed(kind: PromptKind, answer: Answer, call: CallContext) -> PromptAnswer | None:
    try:
        return _read(kind, answer, call)
    except Malformed:
        return None


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
