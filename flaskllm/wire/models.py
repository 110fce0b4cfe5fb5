"""``GET /v1/models``: OpenAI's four fields and three of ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from flaskllm.domain.catalogue import TIERS, Model, Provider
from flaskllm.wire import shapes

CREATED = 1_672_531_200
"""OpenAI's ``created`` must be a number; the catalogue knows no dates, so every model says 2023-01-01."""

MODEL = shapes.record(
    "Model",
    id=shapes.STRING,
    object={"const": "model"},
    created=shapes.WHOLE,
    owned_by={"type": "string", "description": "the provider's id"},
    display_name=shapes.STRING,
    tier=shapes.one_of(*TIERS, None),
    context_window=shapes.maybe(shapes.WHOLE),
)
MODELS = shapes.record(object={"const": "list"}, data=shapes.several(MODEL))
"""The answers' forms, for ``/openapi.json``."""


class Entry(Protocol):
    """A model under its public name."""

    @property
    def name(self) -> str: ...

    @property
    def provider(self) -> Provider: ...

    @property
    def model(self) -> Model: ...


def write_model(entry: Entry) -> dict[str, Any]:
    """One model; ``owned_by`` is the id of the provider that the name goes to."""
    return {
        "id": entry.name,
        "object": "model",
        "created": CREATED,
        "owned_by": entry.provider.id,
        "display_name": entry.model.display_name or entry.model.name,
        "tier": entry.model.tier,
        "context_window": entry.model.context_window,
    }


def write_models(entries: Iterable[Entry]) -> dict[str, Any]:
    return {"object": "list", "data": [write_model(entry) for entry in entries]}
