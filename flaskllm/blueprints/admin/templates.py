"""Prompt templates: the editor, every version and what differs between two, and back to an old one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from flask import Response, request

from flaskllm.blueprints._guard import current_actor, current_principal
from flaskllm.blueprints._http import UNBOUNDED, query, whole
from flaskllm.blueprints._http import page as paging
from flaskllm.blueprints.admin import _forms as forms
from flaskllm.blueprints.admin import _template_form as template_form
from flaskllm.blueprints.admin._pages import bp, go, page, told_in_place
from flaskllm.blueprints.admin._template_form import Fields
from flaskllm.domain.difference import Line, line_differences
from flaskllm.domain.prompt import PromptKind, PromptTemplate
from flaskllm.domain.typed_answer import expected_form
from flaskllm.errors import DomainError
from flaskllm.extensions import services
from flaskllm.wire import templates as wire
from flaskllm.wire.fields import iso
from flaskllm.wire.webhook import RESULTS

TYPES = [(kind.value, f"{kind.value} (typed)" if kind in RESULTS else kind.value) for kind in PromptKind]
FORMS = [(kind.value, expected_form(kind), json.dumps(form, indent=2)) for kind, form in RESULTS.items()]
"""Types whose answers have a form: its name, in words, as JSON Schema."""
CHOICES: dict[str, Any] = {"types": TYPES, "forms": FORMS, "parameters": wire.PARAMETERS}


@bp.get("/templates")
def list_templates() -> Response:
    limit, after, given = paging("search")
    found, following = services.templates.page(limit=limit, after=after, search=given.get("search"))
    rows = [wire.write_template(one) | {"state": _state(one)} for one in found]
    return page("templates.html", rows=rows, following=following, search=given.get("search") or None)


@bp.get("/templates/new")
def show_new_template() -> Response:
    return editor(None, template_form.NEW)


@bp.post("/templates/new")
def create_template() -> Response:
    fields = template_form.typed()

    def act() -> Response:
        body = {"name": fields.get("name", "").strip(), **template_form.document(fields, None)}
        made = services.templates.create(wire.read_template(body), current_actor())
        return go("admin.show_template", name=made.name)

    return told_in_place(lambda error: editor(None, fields, error), act)


@bp.get("/templates/named/<name>")
def show_template(name: str) -> Response:
    stored = services.templates.get(name)
    return editor(stored, template_form.fields_of(stored))


@bp.post("/templates/named/<name>")
def change_template(name: str) -> Response:
    """Writes a version where anything differs. Who has been overtaken is told, and writes over it knowingly or not."""
    stored, fields = services.templates.get(name), template_form.typed()

    def act() -> Response:
        known = wire.write_template(stored) | {text: fields_held[text] for text in template_form.TEXTS}
        changes = forms.changed(template_form.document(fields, stored), known)
        if changes:
            seen = forms.whole("seen")
            changes = wire.read_change(changes)
            services.templates.change(name, changes, current_actor(), seen=seen if isinstance(seen, int) else None)
        return go("admin.show_template", name=name)

    fields_held = template_form.fields_of(stored)
    return told_in_place(lambda error: editor(services.templates.get(name), fields, error), act)


@bp.post("/templates/variables")
def preview_variables() -> Response:
    """The rows of the variables, as the texts stand while they are typed."""
    fields = template_form.typed()
    return page("_template_variables.html", variables=template_form.variables(fields, stored_of(fields)), faults={})


@bp.post("/templates/draft")
def edit_draft() -> Response:
    """Back from trying out what is not saved."""
    fields = template_form.typed()
    return editor(stored_of(fields), fields)


@bp.post("/templates/named/<name>/delete")
def delete_template(name: str) -> Response:
    def act() -> Response:
        services.templates.remove(name, current_actor())
        return go("admin.list_versions", name=name)

    stored = services.templates.get(name)
    return told_in_place(lambda error: editor(stored, template_form.fields_of(stored), error), act)


# -- versions ---------------------------------------------------------------------------------------------------------


@bp.get("/templates/named/<name>/versions")
def list_versions(name: str) -> Response:
    limit, after, _ = paging()
    number = None if after is None else whole(after, "after", least=1, most=UNBOUNDED)
    found, following = services.templates.history(name, limit=limit, after=number)
    rows = [wire.write_template(one.template) | {"at": iso(one.at), "removed": one.removed} for one in found]
    return page(
        "template_versions.html", name=name, rows=rows, following=following, current=_current(name), is_first=not after
    )


@bp.get("/templates/named/<name>/compare")
def compare_versions(name: str) -> Response:
    given = query("from", "to")
    old, new = (
        services.templates.version(name, whole(given.get(end, ""), end, least=1, most=UNBOUNDED))
        for end in ("from", "to")
    )
    return page("template_compare.html", name=name, old=old, new=new, parts=list(_differences(old, new)))


@bp.post("/templates/named/<name>/restore")
def restore_version(name: str) -> Response:
    number = whole(request.form.get("version", ""), "version", least=1, most=UNBOUNDED)
    services.templates.restore(name, number, current_actor())
    return go("admin.show_template", name=name)


def _differences(old: PromptTemplate, new: PromptTemplate) -> Iterator[tuple[str, list[Line]]]:
    """Each field that differs, with its lines."""
    before, after = (wire.write_template(one) for one in (old, new))
    for field in wire.CHANGEABLE:
        if lines := line_differences(_as_text(before[field]), _as_text(after[field])):
            yield field.replace("_", " "), lines


def _as_text(value: Any) -> str:
    """A field in lines: a variable or a parameter is one."""
    if isinstance(value, str | None):
        return value or ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    pairs = value.items() if isinstance(value, dict) else ((one["name"], one["default"]) for one in value)
    return "\n".join(f"{name}: {json.dumps(held, ensure_ascii=False)}" for name, held in pairs)


# -- what is shown ----------------------------------------------------------------------------------------------------


def editor(stored: PromptTemplate | None, fields: Fields, error: DomainError | None = None) -> Response:
    """The form, of a template that is stored or of a new one, as its fields stand."""
    return page(
        "template.html", status=200 if error is None else error.status, stored=stored, given=fields, error=error,
        faults=forms.faults_of(error), variables=template_form.variables(fields, stored),
        state=_state(stored) if stored else None, models=chat_models(),
        sets_parameters=any(fields.get(template_form.PARAMETER + name) for name in wire.PARAMETERS), **CHOICES,
    )  # fmt: skip


def chat_models() -> list[str]:
    """The names of models that can answer a chat."""
    found = services.router.visible(current_principal())
    return [visible.name for visible in found if visible.model.has("chat")]


def _state(template: PromptTemplate) -> str:
    if template.shipped:
        return "shipped"
    return "changed" if services.templates.is_shipped(template.name) else "own"


def _current(name: str) -> int | None:
    """The version that serves; None where there is none any more."""
    return next((one.version for one in services.templates.all() if one.name == name), None)


def stored_of(fields: Fields) -> PromptTemplate | None:
    """What the form is about; None for a new one, and for one that somebody has deleted meanwhile."""
    return next((one for one in services.templates.all() if fields.get("of") == one.name), None)
