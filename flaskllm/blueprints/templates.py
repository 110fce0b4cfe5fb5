"""Prompt templates: ``/api/v1/templates``. Callers read those that they may use, administrators write."""

from __future__ import annotations

from flask import Blueprint, Response

from flaskllm.blueprints._doc import documented
from flaskllm.blueprints._guard import current_actor, current_principal
from flaskllm.blueprints._http import json_body, json_response, no_content
from flaskllm.errors import NotFound
from flaskllm.extensions import services
from flaskllm.services.templates import UNKNOWN
from flaskllm.wire import templates as wire

bp = Blueprint("templates", __name__)


@bp.get("")
@documented("The templates that the caller may use", answer=wire.TEMPLATES)
def list_templates() -> Response:
    may_use = current_principal().may_use_template
    return json_response(wire.write_templates(one for one in services.templates.all() if may_use(one.name)))


@bp.post("")
@documented("Write a template", body=wire.TemplateSchema, answer=wire.TEMPLATE, status=201, errors=(409,))
def create_template() -> Response:
    made = services.templates.create(wire.read_template(json_body()), current_actor())
    return json_response(wire.write_template(made), status=201)


@bp.get("/<name>")
@documented("A template", answer=wire.TEMPLATE)
def read_template(name: str) -> Response:
    _may_see(name)
    return json_response(wire.write_template(services.templates.get(name)))


@bp.get("/<name>/versions")
@documented("Every version of a template, newest first", answer=wire.TEMPLATES)
def list_versions(name: str) -> Response:
    _may_see(name)
    return json_response(wire.write_templates(services.templates.versions(name)))


@bp.put("/<name>")
@documented("Write a new version of a template", body=wire.ChangeSchema, answer=wire.TEMPLATE, errors=(409,))
def change_template(name: str) -> Response:
    changed = services.templates.change(name, wire.read_change(json_body()), current_actor())
    return json_response(wire.write_template(changed))


@bp.delete("/<name>")
@documented("Delete a template; a shipped one of that name serves again", status=204, errors=(409,))
def delete_template(name: str) -> Response:
    services.templates.remove(name, current_actor())
    return no_content()


def _may_see(name: str) -> None:
    """What a token may not use is as if it were not there."""
    if not current_principal().may_use_template(name):
        raise NotFound(UNKNOWN)
