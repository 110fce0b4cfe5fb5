"""What administrators say of providers, their models and keys (S5's words), and the forms of their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict

from flaskllm.domain.catalogue import AUTO, TIERS

PROVIDER_ID = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
MODEL_ID = r"(?!.*//)(?!(?:.*/)?\.{1,2}(?:/|\Z))[A-Za-z0-9@~][A-Za-z0-9._:/@+~-]{0,127}(?<!/)"
"""Slashes are part of it (``meta-llama/Llama-3``), steps of a path (``..``) are not."""
ROUTE_NAME = r"[A-Za-z0-9][A-Za-z0-9._:@+~-]{0,127}"
"""As a model's name, but without a slash: what has one means one provider's model."""
TARGET = rf"{PROVIDER_ID}/{MODEL_ID}"
"""``provider/model``."""
CHOICES = frozenset({AUTO, *TIERS})
"""Words that choose a model and so cannot be the name of one."""
MOST_KEYS = 20
MOST_MODELS = 500
LONGEST_KEY = 4096


class KeyFields(TypedDict, total=False):
    """A key on its way in; ``is_encrypted`` is S5's and changes nothing: every key is encrypted here."""

    key_value: str
    is_encrypted: bool
    endpoint: str | None


class ModelFields(TypedDict, total=False):
    model_id: str
    provider_id: str
    display_name: str
    description: str
    model_type: str
    context_window: int | None
    max_tokens: int | None
    enabled: bool
    backend_model: str
    tier: str | None
    tier_head: bool
    aliases: Sequence[str]
    capabilities: Sequence[str]
    prices: Sequence[Mapping[str, Any]] | None
    valid_from: datetime
    timeout_s: float | None
    params: Mapping[str, str]
    training_data: str | None


class ProviderFields(TypedDict, total=False):
    provider_id: str
    display_name: str
    provider_type: str
    description: str
    enabled: bool
    connection_params: Mapping[str, Any]
    models: Sequence[ModelFields]
    api_key: KeyFields | None
    default_model: str | None
