"""The doors: which there are, who may enter each, and in which dialect it speaks of errors.

One table and one hook; a test proves that no route escapes them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from flask import Blueprint, Flask, request

from flaskllm.blueprints import (
    admin,
    administration,
    auth,
    azure,
    batch,
    chat_page,
    conversations,
    docs,
    excel,
    external,
    files,
    gate,
    messages,
    openai,
    ops,
    providers,
    quotas,
    responses,
    routes,
    templates,
    tokens,
    usage,
    webhook,
)
from flaskllm.blueprints._guard import (
    Policy,
    admin_only,
    enter,
    in_a_browser,
    metrics_reader,
    needs,
    open_to_all,
    signed_in,
)
from flaskllm.blueprints._http import query
from flaskllm.domain.text import can_be_held
from flaskllm.errors import MethodNotAllowed, NotFound


@dataclass(frozen=True, slots=True)
class Door:
    """A blueprint, its prefix and its guard; ``rules`` names the views that have another.

    ``prefix``: a ``{NAME}`` in it is a setting of the application.

    ``asks`` names the views that read a query; at all others a parameter is a mistake, told by name. None: the dialect
    takes what it does not know.
    """

    blueprint: Blueprint
    prefix: str
    guard: Policy
    rules: Mapping[str, Policy] = field(default_factory=dict)
    asks: Collection[str] | None = ()

    def policy(self, endpoint: str) -> Policy:
        return self.rules.get(endpoint.rpartition(".")[2], self.guard)

    def takes_a_query(self, endpoint: str) -> bool:
        return self.asks is None or endpoint.rpartition(".")[2] in self.asks


WRITES_TEMPLATES = ("create_template", "change_template", "delete_template")
MEDIA_RULES = {"create_images": needs("images"), "create_embeddings": needs("embeddings")}
AZURE_VIEWS = {"create_chat_completion", *MEDIA_RULES}
GATE_RULES = {"list_providers": signed_in, "health": open_to_all, **MEDIA_RULES}
PAGES_FOR_ALL = dict.fromkeys(("show_sign_in", "enter", "show_first_run", "make_first_administrator"), open_to_all)
ASKING_PAGES = {
    "compare_versions",
    "download_batch",
    "export_usage",
    "list_aliases",
    "list_audit",
    "list_batches",
    "list_models",
    "list_people",
    "list_providers",
    "list_quotas",
    "list_requests",
    "list_routes",
    "list_templates",
    "list_tokens",
    "list_versions",
    "show_batch",
    "show_batches_progress",
    "show_model",
    "show_new_quota",
    "show_new_token",
    "show_overview",
    "show_quota",
    "show_sign_in",
    "show_trial",
    "show_usage",
    "show_who",
}
DOORS = (
    Door(auth.bp, "/api", signed_in, {"register": open_to_all, "login": open_to_all, "refresh": open_to_all}),
    Door(tokens.bp, "/api/tokens", signed_in, asks={"list_tokens"}),
    Door(usage.bp, "/api/usage", signed_in, asks={"read_usage"}),
    Door(conversations.bp, "/llm", needs("chat"), asks={"read_history", "list_conversations"}),
    Door(webhook.bp, "/api/v1", needs("webhook"), {"health": open_to_all}),
    Door(templates.bp, "/api/v1/templates", needs("webhook"), dict.fromkeys(WRITES_TEMPLATES, admin_only)),
    Door(gate.bp, "{GATE_PATH}/v1", needs("chat"), GATE_RULES),
    Door(batch.bp, "/v1/batch", needs("batch"), asks={"submit", "list_jobs", "read_results"}),
    Door(files.bp, "/v1", needs("batch"), asks={"list_files", "list_batches"}),
    Door(openai.bp, "/v1", needs("chat"), MEDIA_RULES, asks=None),
    Door(azure.bp, "/openai/deployments", needs("chat"), MEDIA_RULES, asks=AZURE_VIEWS),
    Door(responses.bp, "/v1", needs("chat"), asks=None),
    Door(messages.bp, "/v1", needs("chat"), asks=None),
    Door(external.bp, "/api/external", needs("external")),
    Door(providers.bp, "/providers", admin_only, asks={"list_prices"}),
    Door(quotas.bp, "/quotas", admin_only, asks={"list_quotas"}),
    Door(routes.bp, "/routes", admin_only, asks={"list_routes"}),
    Door(docs.bp, "", open_to_all),
    Door(excel.bp, "/excel", open_to_all),
    Door(chat_page.bp, "/chat", open_to_all),
    Door(docs.gate, "{GATE_PATH}", open_to_all),
    Door(administration.bp, "", admin_only, asks={"list_users", "list_tokens", "read_usage", "list_audit"}),
    Door(admin.bp, "/admin", in_a_browser, PAGES_FOR_ALL, asks=ASKING_PAGES),
    Door(ops.bp, "", open_to_all, {"metrics": metrics_reader}),
)
NEVER_TAKEN = ("TRACE", "TRACK", "CONNECT")
"""What echoes a request, with its credential, or opens a tunnel; refused wherever it points."""
_BY_NAME = {door.blueprint.name: door for door in DOORS}


def register_doors(app: Flask) -> None:
    """Put every door in place behind one guard. A path without a door is a 404 before it is a 401.

    Doubled slashes are not merged: werkzeug does it by a page that sends the caller on to the host he named himself.
    """
    app.url_map.merge_slashes = False
    for door in DOORS:
        app.register_blueprint(door.blueprint, url_prefix=door.prefix.format_map(app.config) or None)
    app.before_request(_guard)
    docs.publish(app, DOORS)


def _guard() -> None:
    if request.method in NEVER_TAKEN:
        taken = getattr(request.routing_exception, "valid_methods", None) or ()
        raise MethodNotAllowed("This method is not taken.", headers={"Allow": ", ".join(sorted(taken))})
    door, endpoint = _BY_NAME.get(request.blueprint or ""), request.endpoint or ""
    if door is not None and request.method != "OPTIONS":
        enter(door.policy(endpoint))
        if not all(can_be_held(str(value)) for value in (request.view_args or {}).values()):
            raise NotFound("There is no such thing.")  # and PostgreSQL cannot even be asked for it
        if not door.takes_a_query(endpoint):
            query()
