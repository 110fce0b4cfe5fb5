"""The administrators' pages: server-rendered, one module a subject, and nothing here that the JSON doors could not do.

A page reads, asks the services and draws; what it changes goes through the same services as at the JSON doors, and so
into the same audit trail.
"""

from __future__ import annotations

from flaskllm.blueprints.admin import (
    audit,
    batches,
    compatible,
    entrance,
    models,
    overview,
    people,
    playground,
    providers,
    quotas,
    requests,
    routes,
    template_trials,
    templates,
    tokens,
    usage,
)
from flaskllm.blueprints.admin._pages import bp, error_page

__all__ = [
    "audit",
    "batches",
    "bp",
    "compatible",
    "entrance",
    "error_page",
    "models",
    "overview",
    "people",
    "playground",
    "providers",
    "quotas",
    "requests",
    "routes",
    "template_trials",
    "templates",
    "tokens",
    "usage",
]
