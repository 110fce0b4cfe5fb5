"""``/v1/models`` as OpenAI's SDKs read it."""

from __future__ import annotations

import pytest

from flaskllm.domain.catalogue import Model, Provider
from flaskllm.services.model_router import Visible
from flaskllm.wire.models import write_model, write_models

GPT = Model("1", "openai", "gpt-4o", "gpt-4o", "GPT-4o", tier="large", context_window=128_000)
BARE = Model("2", "openai", "own", "own-7b")
OPENAI = Provider("openai", "openai", models=(GPT, BARE))


def test_a_model_has_openais_four_fields_and_ours() -> None:
    assert write_model(Visible("gpt-4o", OPENAI, GPT)) == {
        "id": "gpt-4o",
        "object": "model",
        "created": 1672531200,
        "owned_by": "openai",
        "display_name": "GPT-4o",
        "tier": "large",
        "context_window": 128000,
    }


def test_what_is_not_known_is_null_and_a_name_is_always_there() -> None:
    written = write_model(Visible("own", OPENAI, BARE))
    assert (written["display_name"], written["tier"], written["context_window"]) == ("own", None, None)


def test_openais_sdk_reads_the_list() -> None:
    pagination = pytest.importorskip("openai.pagination")
    types = pytest.importorskip("openai.types")
    page = pagination.SyncPage[types.Model].model_validate(write_models([Visible("gpt-4o", OPENAI, GPT)]))
    assert [(model.id, model.owned_by) for model in page.data] == [("gpt-4o", "openai")]
