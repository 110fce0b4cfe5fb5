"""``/v1/embeddings`` in OpenAI's dialect."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

import orjson

from flaskllm.domain.answer import Told
from flaskllm.domain.embedding import EmbedRequest, EmbedResult
from flaskllm.domain.text import can_be_held
from flaskllm.errors import Detail, refuse
from flaskllm.wire import shapes
from flaskllm.wire.checks import SAFE_INTEGER, Check, boolean, faults_of, given_of, integer, one_of, text

MOST_INPUTS, MOST_TOKENS = 2048, 300_000
"""OpenAI's bounds of one call: inputs, and tokens of all of them, which bound the ids that are looked at."""
BASE64 = "base64"
PARAMS: dict[str, Check] = {"dimensions": integer(1, 100_000), "user": text(512)}
ENVELOPE: dict[str, Check] = {
    "model": text(256, least=1),
    "encoding_format": one_of("float", BASE64),
    "drop_params": boolean,
}
_TEXT: shapes.Shape = {"type": "string", "minLength": 1}
_TOKENS = shapes.several({"type": "integer", "minimum": 0, "maximum": SAFE_INTEGER}, minItems=1, maxItems=MOST_TOKENS)
EMBEDDINGS: shapes.Shape = {
    "title": "EmbeddingsRequest",
    "type": "object",
    "properties": {
        **{name: shapes.maybe(shapes.form_of(check)) for name, check in (ENVELOPE | PARAMS).items()},
        "input": {
            "anyOf": [
                _TEXT,
                shapes.several(_TEXT, minItems=1, maxItems=MOST_INPUTS),
                _TOKENS,
                shapes.several(_TOKENS, minItems=1, maxItems=MOST_INPUTS),
            ]
        },
    },
    "required": ["input"],
}
VECTORS = shapes.record(
    "Embeddings",
    object={"const": "list"},
    data=shapes.several(
        shapes.record(
            object={"const": "embedding"},
            index=shapes.COUNT,
            embedding={"anyOf": [shapes.several({"type": "number"}), shapes.STRING]},
        )
    ),
    model=shapes.STRING,
    usage=shapes.record(prompt_tokens=shapes.COUNT, total_tokens=shapes.COUNT),
)


def read_embeddings(body: dict[str, Any], *, model: str | None = None) -> tuple[EmbedRequest, str]:
    """A ``/v1/embeddings`` body, and how the vectors are to be written.

    ``model``: the one in the path, for Azure's clients. Raises `InvalidRequest` naming each field at fault.
    """
    given = given_of(body)
    refuse([*faults_of(given, ENVELOPE | PARAMS), *_input_faults(given.get("input"))])
    inputs = given.pop("input")
    request = EmbedRequest(
        inputs=_one_each(inputs),
        model=model or given.get("model"),
        params={name: value for name, value in given.items() if name in PARAMS},
        extras={name: value for name, value in given.items() if name not in PARAMS and name not in ENVELOPE},
        drop_params=given.get("drop_params", False),
    )
    return request, given.get("encoding_format", "float")


def _one_each(inputs: Any) -> Sequence[str | Sequence[int]]:
    """A single text or list of ids is one input."""
    alone = isinstance(inputs, str) or isinstance(inputs[0], int)
    return [inputs] if alone else inputs


def _input_faults(inputs: Any) -> list[Detail]:
    if inputs is None:
        return [Detail(field="input", message="is missing")]
    if isinstance(inputs, str):
        return _text_faults(inputs, "input")
    if not isinstance(inputs, list) or not inputs:
        return [Detail(field="input", message="must be a text, a list of texts, or token ids, and not empty")]
    if _is_ids(inputs):
        return _count_faults(inputs)
    if len(inputs) > MOST_INPUTS:
        return [Detail(field="input", message=f"must have at most {MOST_INPUTS} entries")]
    faults = [fault for place, one in enumerate(inputs) for fault in _entry_faults(one, inputs, f"input[{place}]")]
    return faults or _count_faults([value for one in inputs if isinstance(one, list) for value in one])


def _entry_faults(one: Any, inputs: list[Any], where: str) -> list[Detail]:
    """All entries are of the first one's kind."""
    if isinstance(inputs[0], str):
        return _text_faults(one, where)
    if isinstance(one, list) and one and _is_ids(one):
        return []
    return [Detail(field=where, message="must be a list of token ids")]


def _text_faults(one: Any, where: str) -> list[Detail]:
    if not isinstance(one, str) or not can_be_held(one):
        return [Detail(field=where, message="must be a text without NUL")]
    return [] if one else [Detail(field=where, message="must not be empty")]


def _is_ids(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value <= SAFE_INTEGER for value in values)


def _count_faults(ids: list[int]) -> list[Detail]:
    fits = len(ids) <= MOST_TOKENS
    return [] if fits else [Detail(field="input", message=f"must have at most {MOST_TOKENS} token ids")]


def write_embeddings(told: Told[EmbedResult], form: str) -> bytes:
    """OpenAI's document; as base64 of little-endian floats where that was asked for."""
    usage = told.usage
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": packed(vector) if form == BASE64 else vector}
                for index, vector in enumerate(told.result.vectors)
            ],
            "model": told.result.model or told.candidate.model.name,
            "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens},
        }
    )


def packed(vector: Sequence[float]) -> str:
    """The vector as OpenAI packs it.

    >>> packed([1.0, -2.0])
    'AACAPwAAAMA='
    """
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
