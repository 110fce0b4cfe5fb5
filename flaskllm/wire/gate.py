"""The gate (S2): camelCase documents, `tranningData` and all.

A body's form is told by marshmallow; what OpenAI's dialect checks as well (parts, tools, answer formats) is checked
there and its faults are told under the names they have here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from marshmallow import Schema, ValidationError, fields

from flaskllm.domain.answer import Answer
from flaskllm.domain.catalogue import Model, Provider
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.embedding import EmbedRequest, EmbedResult
from flaskllm.domain.image import ImageRequest, ImageResult
from flaskllm.domain.pricing import to_dollars
from flaskllm.domain.usage import Usage
from flaskllm.errors import Detail, InvalidRequest
from flaskllm.wire import openai
from flaskllm.wire.fields import Choice, Flag, Number, Text, Whole, load
from flaskllm.wire.shapes import (
    ANY_OBJECT,
    COST,
    COUNT,
    FLAG,
    NO_NUL,
    NOT_BLANK,
    STRING,
    WHOLE,
    Shape,
    form_of,
    maybe,
    one_of,
    record,
    several,
)

MOST_TEXT = 2**24
"""Characters; the body's own limit is the one that is met, this one only says so by name."""
MOST_IMAGES, MOST_INPUTS, MOST_DIMENSIONS = 10, 2048, 65_536
SIZE = "must be auto or a width and a height such as 1024x1024"
IMAGE_KINDS = {"/9j/": "jpeg", "iVBORw0KGgo": "png", "UklGR": "webp", "R0lGOD": "gif"}
"""How images begin, in base64."""
_SNAKE = re.compile(r"_([a-z])")
ROLES = ("system", "developer", "user", "assistant", "tool")


def camel(name: str) -> str:
    """A name of ours as this dialect writes it.

    >>> camel("max_tokens")
    'maxTokens'
    """
    return _SNAKE.sub(lambda found: found[1].upper(), name)


class CamelSchema(Schema):
    """Fields under camelCase names."""

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        field_obj.data_key = camel(field_name)


class ModelChoiceSchema(CamelSchema):
    """``provider.model``."""

    name = Text(allow_none=True, least=1, most=256)


class ProviderChoiceSchema(CamelSchema):
    """``provider``: whose model is asked; without one, or without a model, the default."""

    name = Text(allow_none=True, least=1, most=64)
    model = fields.Nested(ModelChoiceSchema, allow_none=True)


def _openai(name: str, **more: Any) -> fields.Raw:
    """A parameter that OpenAI's dialect checks, in the form that it tells of it."""
    return fields.Raw(allow_none=True, metadata={**form_of(openai.PARAMS[name]), **more})


def _message(*roles: str, content: Shape, required: tuple[str, ...]) -> Shape:
    """The form of these roles' messages."""
    return {
        "type": "object",
        "properties": {
            "role": one_of(*roles),
            "content": content,
            "name": {"type": ["string", "null"], "maxLength": 64, "pattern": NO_NUL},
            "toolCalls": maybe(several(openai.TOOL_CALL)),
            "toolCallId": {
                "type": "string" if roles == ("tool",) else ["string", "null"],
                "maxLength": 256,
                "pattern": NO_NUL,
            },
        },
        "required": ["role", *required],
        "additionalProperties": False,
    }


MESSAGE = {
    "anyOf": [
        _message("system", "developer", "user", content=openai.CONTENT, required=("content",)),
        _message("assistant", content=maybe(openai.CONTENT), required=()),
        _message("tool", content=openai.CONTENT, required=("content", "toolCallId")),
    ]
}
"""A message as OpenAI has it, its own fields under this dialect's names; inside parts and calls nothing is renamed."""


class ParameterSchema(CamelSchema):
    """``prompt.parameter`` of a chat: what OpenAI's API reference knows and this dialect's answer can show."""

    temperature = Number(allow_none=True, least=0, most=2)
    top_p = Number(allow_none=True, least=0, most=1)
    max_tokens = Whole(allow_none=True, least=1)
    max_completion_tokens = Whole(allow_none=True, least=1)
    n = Whole(allow_none=True, least=1, most=128)
    stop = _openai("stop")
    seed = Whole(allow_none=True)
    presence_penalty = Number(allow_none=True, least=-2, most=2)
    frequency_penalty = Number(allow_none=True, least=-2, most=2)
    logit_bias = _openai("logit_bias")
    reasoning_effort = Text(allow_none=True, most=32)
    verbosity = Text(allow_none=True, most=32)
    response_format = _openai("response_format")
    tools = _openai("tools", items=openai.TOOL)
    tool_choice = _openai("tool_choice")
    parallel_tool_calls = Flag(allow_none=True)
    user = Text(allow_none=True, most=512)
    drop_params = Flag(allow_none=True)


class MessageSchema(CamelSchema):
    """One message; what its content may be is OpenAI's to say."""

    role = Choice(*ROLES, required=True)
    content = fields.Raw(allow_none=True)
    name = Text(allow_none=True, most=64)
    tool_calls = fields.Raw(allow_none=True)
    tool_call_id = Text(allow_none=True, most=256)


class Messages(fields.Field[Any]):
    """A list of messages; it describes itself, because what else a message has depends on its role."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(metadata={"type": "array", "minItems": 1, "items": MESSAGE}, **rest)
        self._read = fields.List(fields.Nested(MessageSchema))

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, list):
            raise ValidationError("must be a list of messages")
        return self._read.deserialize(value)


class ChatPromptSchema(CamelSchema):
    """``prompt`` of a chat."""

    parameter = fields.Nested(ParameterSchema, allow_none=True)
    messages = Messages(required=True)


class ChatSchema(CamelSchema):
    """``POST …/chat``."""

    provider = fields.Nested(ProviderChoiceSchema, allow_none=True)
    prompt = fields.Nested(ChatPromptSchema, required=True)


def read_chat(body: dict[str, Any]) -> ChatRequest:
    """S2's chat. Raises `InvalidRequest` naming each field at fault by its path."""
    given = load(ChatSchema(), body)
    prompt = given["prompt"]
    provider, model = _choice(given.get("provider"))
    asked = {
        **_without_nulls(prompt.get("parameter") or {}),
        "messages": [_without_nulls(message) for message in prompt["messages"]],
        "model": model,
    }
    try:
        return replace(openai.read_chat(asked), provider=provider)
    except InvalidRequest as error:
        raise _told_here(error) from None


def _choice(given: Mapping[str, Any] | None) -> tuple[str | None, str | None]:
    """The provider and the model that were named, each or both or neither."""
    found = given or {}
    return found.get("name"), (found.get("model") or {}).get("name")


def _without_nulls(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _told_here(error: InvalidRequest) -> InvalidRequest:
    """What OpenAI's dialect found, under the names that the fields have here."""
    details: list[Detail] = [{"field": _path(each["field"]), "message": each["message"]} for each in error.details]
    message = f"{details[0]['field']}: {details[0]['message']}" if details else error.message
    return InvalidRequest(message, details=details)


def _path(field: str) -> str:
    head = re.split(r"[.\[]", field, maxsplit=1)[0]
    if head != "messages":
        return f"prompt.parameter.{camel(head)}{field[len(head) :]}"
    return "prompt." + field.replace(".tool_calls", ".toolCalls").replace(".tool_call_id", ".toolCallId")


# -- images and embeddings ---------------------------------------------------------------------------------------------


class ImageParameterSchema(CamelSchema):
    """``prompt.parameter`` of an image; the quality as its provider's list of prices has it, in any case."""

    n = Whole(allow_none=True, least=1, most=MOST_IMAGES)
    size = Text(allow_none=True, most=16, pattern=r"auto|[1-9][0-9]{1,4}x[1-9][0-9]{1,4}", form=SIZE)
    quality = Text(allow_none=True, least=1, most=32)
    style = Text(allow_none=True, least=1, most=32)
    user = Text(allow_none=True, most=512)
    drop_params = Flag(allow_none=True)


class ImagePromptSchema(CamelSchema):
    """``prompt`` of an image."""

    message = Text(required=True, least=1, most=MOST_TEXT, pattern=NOT_BLANK, form="must not be empty")
    parameter = fields.Nested(ImageParameterSchema, allow_none=True)


class ImageSchema(CamelSchema):
    """``POST …/images/generations``."""

    provider = fields.Nested(ProviderChoiceSchema, allow_none=True)
    prompt = fields.Nested(ImagePromptSchema, required=True)


class Inputs(fields.Field[Any]):
    """A text, or a list of texts; none of them empty, because no provider takes that."""

    def __init__(self, **rest: Any) -> None:
        one = {"type": "string", "minLength": 1, "pattern": NO_NUL}
        super().__init__(metadata={"anyOf": [one, several(one, minItems=1, maxItems=MOST_INPUTS)]}, **rest)
        self._one = Text(least=1, most=MOST_TEXT)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[str]:
        if isinstance(value, str):
            return [str(self._one.deserialize(value))]
        if not isinstance(value, list) or not 1 <= len(value) <= MOST_INPUTS:
            raise ValidationError(f"must be a string or a list of 1 to {MOST_INPUTS} strings")
        read: list[str] = fields.List(self._one).deserialize(value)  # type: ignore[assignment]
        return read


class EmbedParameterSchema(CamelSchema):
    """``parameter`` of embeddings."""

    dimensions = Whole(allow_none=True, least=1, most=MOST_DIMENSIONS)
    user = Text(allow_none=True, most=512)
    drop_params = Flag(allow_none=True)


class EmbedSchema(CamelSchema):
    """``POST …/embeddings``."""

    provider = fields.Nested(ProviderChoiceSchema, allow_none=True)
    input = Inputs(required=True)
    parameter = fields.Nested(EmbedParameterSchema, allow_none=True)


def read_images(body: dict[str, Any]) -> ImageRequest:
    """S2's image. Raises `InvalidRequest` naming each field at fault by its path."""
    given = load(ImageSchema(), body)
    provider, model = _choice(given.get("provider"))
    params = _without_nulls(given["prompt"].get("parameter") or {})
    params |= {name: params[name].lower() for name in ("quality", "style") if name in params}
    drop = params.pop("drop_params", False)
    prompt = given["prompt"]["message"]
    return ImageRequest(prompt=prompt, model=model, provider=provider, params=params, drop_params=drop)


def read_embeddings(body: dict[str, Any]) -> EmbedRequest:
    """Texts to embed. Raises `InvalidRequest` naming each field at fault by its path."""
    given = load(EmbedSchema(), body)
    provider, model = _choice(given.get("provider"))
    params = _without_nulls(given.get("parameter") or {})
    drop = params.pop("drop_params", False)
    return EmbedRequest(inputs=given["input"], model=model, provider=provider, params=params, drop_params=drop)


# -- answers ----------------------------------------------------------------------------------------------------------


USAGE = record("GateUsage", completionTokens=COUNT, promptTokens=COUNT, totalTokens=COUNT)
CHAT = record(
    "GateAnswer",
    usage=USAGE,
    messages=several(
        record(role={"const": "assistant"}, content=maybe(STRING), optional={"toolCalls": several(ANY_OBJECT)})
    ),
    cost=COST,
)
IMAGES = record("GateImages", data=several(record(url=STRING)))
EMBEDDINGS = record(
    "GateEmbeddings", data=several(record(index=COUNT, embedding=several({"type": "number"}))), usage=USAGE
)
PRICE: Shape = {
    "type": "object",
    "properties": {
        "id": STRING,
        "unitOfMeasure": WHOLE,
        "currency": STRING,
        "token": {"type": "object", "description": "US dollars for `unitOfMeasure` tokens"},
        "pixel": {"type": "object", "description": "US dollars for one image of this size and quality"},
    },
}
MODEL = record(
    "GateModel",
    id=STRING,
    name=STRING,
    label=STRING,
    description=STRING,
    enabled=FLAG,
    optional={"contextWindow": COUNT, "tranningData": STRING, "trainingData": STRING, "price": several(PRICE)},
)
PROVIDERS = record(
    "GateProviders",
    data=several(record(id=STRING, name=STRING, label=STRING, description=STRING, model=several(MODEL))),
)
HEALTH = record(status={"const": "ok"}, version=STRING)
"""The answers' forms, for ``/openapi.json``."""


def write_answer(answer: Answer) -> dict[str, Any]:
    """S2's answer, each choice a message, and what it cost in US dollars."""
    choices = answer.result.body.get("choices") or []
    return {
        "usage": write_usage(answer.usage),
        "messages": [_write_message(choice.get("message") or {}) for choice in choices],
        "cost": to_dollars(answer.cost),
    }


def _write_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` is null where the model called tools and said nothing."""
    content, calls = message.get("content"), message.get("tool_calls")
    said = {"role": "assistant", "content": message.get("refusal") if content is None else content}
    return {**said, "toolCalls": calls} if calls else said


def write_images(result: ImageResult) -> dict[str, Any]:
    """S2's images; one that came as data and not by an address is a data URL."""
    return {"data": [{"url": image.get("url") or _data_url(image["b64_json"])} for image in result.images]}


def _data_url(encoded: str) -> str:
    """Of the kind that its first bytes say, which every provider sends unmarked."""
    kind = next((kind for start, kind in IMAGE_KINDS.items() if encoded.startswith(start)), "png")
    return f"data:image/{kind};base64,{encoded}"


def write_embeddings(result: EmbedResult, usage: Usage) -> dict[str, Any]:
    """A vector for each input, in its order."""
    rows = [{"index": place, "embedding": vector} for place, vector in enumerate(result.vectors)]
    return {"data": rows, "usage": write_usage(usage)}


def write_usage(usage: Usage) -> dict[str, int]:
    """S2's three counts."""
    return {
        "completionTokens": usage.completion_tokens,
        "promptTokens": usage.prompt_tokens,
        "totalTokens": usage.total_tokens,
    }


def write_providers(providers: Iterable[Provider]) -> dict[str, Any]:
    """S2's document; what is not known of a model is left out."""
    return {"data": [_write_provider(provider) for provider in providers]}


def _write_provider(provider: Provider) -> dict[str, Any]:
    return {
        "id": provider.uid,
        "name": provider.id,
        "label": provider.display_name or provider.id,
        "description": provider.description,
        "model": [_write_model(model) for model in provider.models],
    }


def _write_model(model: Model) -> dict[str, Any]:
    """`tranningData` is S2's spelling; the right one stands beside it."""
    known = {
        "contextWindow": model.context_window,
        "tranningData": model.training_data,
        "trainingData": model.training_data,
        "price": [dict(price) for price in model.prices] or None,
    }
    return {
        "id": model.id,
        "name": model.name,
        "label": model.display_name or model.name,
        "description": model.description,
        **_without_nulls(known),
        "enabled": model.enabled,
    }
