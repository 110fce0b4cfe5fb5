"""The playground: a chat with one model or with two side by side, streamed, and the same as code.

The page has a door of its own, for the cookie of a sign-in opens nothing of the API. Behind it is the same
orchestrator: an answer is the administrator's own call, with their limits and budgets. Without scripts the form gives
whole answers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from flask import Response, g, request

from flaskllm.blueprints._browser import MOST_TEXT_BYTES
from flaskllm.blueprints._calls import new_call, stream_response
from flaskllm.blueprints._guard import current_principal
from flaskllm.blueprints._http import json_body, json_response
from flaskllm.blueprints.admin import _forms as forms
from flaskllm.blueprints.admin._pages import bp, page, told_in_place
from flaskllm.domain.catalogue import AUTO, TIERS
from flaskllm.domain.pricing import dollars_text
from flaskllm.errors import DomainError
from flaskllm.extensions import services
from flaskllm.wire import errors, openai
from flaskllm.wire import playground as wire
from flaskllm.wire.snippets import write_snippets

NONE = "none"
"""What the second choice says where there is no second model; a model of that name is `provider/none`."""
HELLO = "Hello"
TYPED = ("model", "second", "system", "temperature", "max_tokens", "message")


@dataclass
class Pane:
    """One of the two columns. ``turns``: what was said; ``asked``: what has just been asked and got no answer."""

    place: int
    model: str
    turns: list[dict[str, str]] = field(default_factory=list)
    asked: str | None = None
    figures: dict[str, Any] | None = None
    error: DomainError | None = None

    @property
    def history(self) -> str:
        return wire.write_history(self.turns)


@bp.get("/playground")
def show_playground() -> Response:
    return _page([Pane(0, ""), Pane(1, NONE)], {"second": NONE})


@bp.post("/playground")
def ask_whole() -> Response:
    """Without scripts: each model in turn, and the page anew with what they said."""

    def act() -> Response:
        panes, message = _panes(), request.form.get("message", "").replace("\r\n", "\n")
        for pane in panes:
            if pane.model != NONE:
                _ask(pane, message)
        is_answered = not any(pane.error for pane in panes)
        return _page(panes, {**forms.refilled(TYPED), **({"message": ""} if is_answered else {})})

    return told_in_place(lambda error: _page(_shown(), forms.refilled(TYPED), error), act)


@bp.post("/playground/stream")
def stream_answer() -> Response:
    """One answer as OpenAI's events, for a body of ``/v1/chat/completions``; a refusal is JSON."""
    try:
        ask = openai.read_chat(json_body(MOST_TEXT_BYTES))
        call = new_call("playground", metadata=ask.metadata)
        stream = services.chat.stream(ask, call)
    except DomainError as error:
        g.error_code = error.code
        return json_response(errors.house(error, g.request_id), error.status, no_store=True)
    response = stream_response(openai.write_chunks(stream, ask, call.request_id), stream)
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.post("/playground/code")
def show_code() -> Response:
    """The chat of the first column as it stands, what is typed included."""

    def act() -> Response:
        panes, message = _panes(), request.form.get("message", "").replace("\r\n", "\n")
        turns = [*panes[0].turns, *([_said(message)] if message.strip() else [])]
        body = _body(panes[0], turns or [_said(HELLO)])
        openai.read_chat(body)
        code = write_snippets(body, request.host_url.rstrip("/"))
        return _page(panes, forms.refilled(TYPED), code=code)

    return told_in_place(lambda error: _page(_shown(), forms.refilled(TYPED), error), act)


# -- what is asked ----------------------------------------------------------------------------------------------------


def _ask(pane: Pane, message: str) -> None:
    """What one model says goes into its column, its refusal too. Raises `InvalidRequest` for the form's own faults."""
    ask = openai.read_chat(_body(pane, [*pane.turns, _said(message)]))
    began = time.monotonic()
    try:
        answer = services.chat.complete(ask, new_call("playground"))
    except DomainError as error:
        pane.asked, pane.error = message, error
        return
    pane.turns += [_said(message), {"role": "assistant", "content": answer.text}]
    pane.figures = {
        "by": answer.candidate.name,
        "seconds": time.monotonic() - began,
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "cost": None if answer.cost is None else dollars_text(answer.cost),
    }


def _said(message: str) -> dict[str, str]:
    return {"role": "user", "content": message}


def _body(pane: Pane, turns: list[dict[str, str]]) -> dict[str, Any]:
    return wire.chat_body(
        turns,
        model=pane.model or None,
        system=forms.text("system"),
        temperature=forms.amount("temperature"),
        max_tokens=forms.whole("max_tokens"),
    )


def _panes() -> list[Pane]:
    """Both columns as the form has them. Raises `InvalidRequest` for a history that is none."""
    chosen = (request.form.get("model", ""), request.form.get("second", NONE))
    return [
        Pane(place, model, wire.read_history(request.form.get(f"history.{place}", "")))
        for place, model in enumerate(chosen)
    ]


def _shown() -> list[Pane]:
    """The same for the page that tells of a fault: with what can be read of it."""
    try:
        return _panes()
    except DomainError:
        return [Pane(0, request.form.get("model", "")), Pane(1, request.form.get("second", NONE))]


# -- what is shown ----------------------------------------------------------------------------------------------------


def _page(
    panes: list[Pane],
    given: dict[str, Any],
    error: DomainError | None = None,
    *,
    code: dict[str, str] | None = None,
) -> Response:
    return page(
        "playground.html", status=200 if error is None else error.status, panes=panes, given=given, error=error,
        faults=forms.faults_of(error), groups=_groups(), code=code,
    )  # fmt: skip


def _groups() -> dict[str, list[tuple[str, str]]]:
    """The models that can chat, by provider, each with the words that it is shown by; first the choices."""
    found = {"Chosen by the gateway": [("", "the default"), *((name, name) for name in (AUTO, *TIERS))]}
    for visible in services.router.visible(current_principal()):
        if visible.model.has("chat"):
            found.setdefault(visible.provider.display_name or visible.provider.id, []).append(
                (visible.name, visible.name)
            )
    return found
