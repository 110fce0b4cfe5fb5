"""A template tried out on a model: as it is stored, in an old version, or as it stands in the editor, unsaved.

It is the administrator's own call, with their limits and budgets, and a row of the ledger like any other.
"""

from __future__ import annotations

import json
from typing import Any

from flask import Response, g

from flaskllm.blueprints._calls import new_call
from flaskllm.blueprints._http import UNBOUNDED, query, whole
from flaskllm.blueprints.admin import _template_form as template_form
from flaskllm.blueprints.admin._forms import faults_of
from flaskllm.blueprints.admin._pages import bp, page, told_in_place
from flaskllm.blueprints.admin._template_form import Fields
from flaskllm.blueprints.admin.templates import chat_models, editor, stored_of
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.pricing import dollars_text
from flaskllm.domain.prompt import PromptAsk, PromptTemplate, PromptTrial, declared
from flaskllm.errors import DomainError
from flaskllm.extensions import services
from flaskllm.services.prompts import request_of
from flaskllm.wire import templates as wire

VALUE = "variables."
UNNAMED = "draft"
ELSEWHERE = {"prompt": f"{VALUE}text", "language": f"{VALUE}language", "model": "on_model"}
"""Fields that stand under another name on this page."""


@bp.get("/templates/try")
def show_trial() -> Response:
    given = query("name", "version")
    template = _saved(given.get("name", ""), given.get("version"))
    return _page(template, None, {}, model=template.model)


@bp.post("/templates/try")
def run_trial() -> Response:
    """With a draft in the form it is the draft that is tried; what is wrong with it is told in the editor."""
    fields = template_form.typed()
    if "user_text" not in fields:
        return _asked(_saved(fields.get("name", ""), fields.get("version") or None), None, fields)
    stored = stored_of(fields)

    def act() -> Response:
        body = {"name": fields.get("name", "").strip() or UNNAMED, **template_form.document(fields, stored)}
        return _asked(declared(wire.read_template(body)), fields, fields)

    return told_in_place(lambda error: editor(stored, fields, error), act)


def _saved(name: str, version: str | None) -> PromptTemplate:
    if not version:
        return services.templates.get(name)
    return services.templates.version(name, whole(version, "version", least=1, most=UNBOUNDED))


def _asked(template: PromptTemplate, draft: Fields | None, fields: Fields) -> Response:
    """Asks where the button for that was pressed; whatever fails is told beside what had been typed."""
    values = {name: value for name in template.variables if (value := fields.get(VALUE + name, ""))}
    model = (fields["on_model"].strip() or None) if "on_model" in fields else template.model
    if "run" not in fields:
        return _page(template, draft, values, model=model)
    request: ChatRequest | None = None
    try:
        request = request_of(PromptAsk(variables=values, template=template.name, model=model), template)
        trial = services.prompts.try_out(
            request, template.kind, new_call("templates", metadata={"template": template.name})
        )
    except DomainError as error:
        g.error_code = error.code
        return _page(template, draft, values, model=model, request=request, error=error)
    return _page(template, draft, values, model=model, request=request, trial=trial)


def _page(
    template: PromptTemplate,
    draft: Fields | None,
    values: dict[str, str],
    *,
    model: str | None,
    request: ChatRequest | None = None,
    trial: PromptTrial | None = None,
    error: DomainError | None = None,
) -> Response:
    carried = [(name, value) for name, value in draft.items(multi=True) if _is_the_drafts(name)] if draft else None
    return page(
        "template_try.html", status=200 if error is None else error.status, tried=template, draft=carried,
        values=values, model=model, messages=request.messages if request else None, told=trial and _told(trial),
        error=error, faults={ELSEWHERE.get(name, name): words for name, words in faults_of(error).items()},
        models=chat_models(),
    )  # fmt: skip


def _is_the_drafts(name: str) -> bool:
    return name not in ("csrf", "run", "on_model") and not name.startswith(VALUE)


def _told(trial: PromptTrial) -> dict[str, Any]:
    """What came of it, in words."""
    told = trial.answer
    return {
        "text": told.text,
        "result": None if told.result is None else json.dumps(told.result, ensure_ascii=False, indent=2),
        "complaint": trial.complaint,
        "model": told.answer.candidate.name,
        "seconds": told.seconds,
        "prompt_tokens": told.usage.prompt_tokens,
        "completion_tokens": told.usage.completion_tokens,
        "estimated": told.usage.estimated,
        "cost": None if told.cost is None else dollars_text(told.cost),
    }
