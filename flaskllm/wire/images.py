"""``/v1/images/generations`` in OpenAI's dialect."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson

from flaskllm.domain.answer import Told
from flaskllm.domain.image import ImageRequest, ImageResult, size_of
from flaskllm.errors import Detail, refuse
from flaskllm.wire import shapes
from flaskllm.wire.checks import Check, boolean, faults_of, given_of, integer, one_of, text
from flaskllm.wire.shapes import of_form

LONGEST_PROMPT = 32_000
"""OpenAI's bound."""
MOST_SIDE = 16_384


@of_form(type="string", pattern=r"^(auto|[1-9][0-9]{1,4}x[1-9][0-9]{1,4})$")
def size(value: Any) -> str | None:
    if value == "auto":
        return None
    found = size_of(value) if isinstance(value, str) else None
    return None if found and max(found) <= MOST_SIDE else "must be auto, or width and height such as 1024x1024"


PARAMS: dict[str, Check] = {
    "background": one_of("transparent", "opaque", "auto"),
    "moderation": one_of("low", "auto"),
    "n": integer(1, 10),
    "output_compression": integer(0, 100),
    "output_format": one_of("png", "jpeg", "webp"),
    "quality": one_of("standard", "hd", "low", "medium", "high", "auto"),
    "response_format": one_of("url", "b64_json"),
    "size": size,
    "style": one_of("vivid", "natural"),
    "user": text(512),
}
"""Source: OpenAI's API reference."""
ENVELOPE: dict[str, Check] = {
    "model": text(256, least=1),
    "prompt": text(LONGEST_PROMPT, least=1),
    "drop_params": boolean,
}
DRAW: shapes.Shape = {
    "title": "ImagesRequest",
    "type": "object",
    "properties": {
        **{name: shapes.maybe(shapes.form_of(check)) for name, check in (ENVELOPE | PARAMS).items()},
        "prompt": shapes.form_of(ENVELOPE["prompt"]),
    },
    "required": ["prompt"],
}
DRAWN: shapes.Shape = {
    "title": "Images",
    "type": "object",
    "properties": {
        "created": shapes.WHOLE,
        "data": shapes.several(
            shapes.record(optional={"url": shapes.STRING, "b64_json": shapes.STRING, "revised_prompt": shapes.STRING}),
            minItems=1,
        ),
        "usage": shapes.record(
            input_tokens=shapes.COUNT,
            output_tokens=shapes.COUNT,
            total_tokens=shapes.COUNT,
            input_tokens_details=shapes.record(text_tokens=shapes.COUNT, image_tokens=shapes.COUNT),
        ),
        **dict.fromkeys(("size", "quality", "background", "output_format"), shapes.STRING),
    },
    "required": ["created", "data"],
    "additionalProperties": False,
}


def read_images(body: dict[str, Any], *, model: str | None = None) -> ImageRequest:
    """A ``/v1/images/generations`` body. ``model``: the one in the path, for Azure's clients.

    Raises `InvalidRequest` naming each field at fault.
    """
    given = given_of(body)
    faults = faults_of(given, ENVELOPE | PARAMS)
    if "prompt" not in given:
        faults.append(Detail(field="prompt", message="is missing"))
    faults += [
        Detail(field=name, message="is not taken: images come whole")
        for name in ("stream", "partial_images")
        if given.pop(name, None)
    ]
    refuse(faults)
    return ImageRequest(
        prompt=given["prompt"],
        model=model or given.get("model"),
        params={name: value for name, value in given.items() if name in PARAMS},
        extras={name: value for name, value in given.items() if name not in PARAMS and name not in ENVELOPE},
        drop_params=given.get("drop_params", False),
    )


def write_images(told: Told[ImageResult], request: ImageRequest) -> bytes:
    """OpenAI's document. Where addresses were asked for and bytes came, the address is a data URL."""
    result, usage = told.result, told.usage
    document: dict[str, Any] = {
        "created": result.created or int(time.time()),
        "data": [image_of(image, result, as_url=request.as_url) for image in result.images],
        **result.more,
        **{name: held for name, held in (("size", result.size), ("quality", result.quality)) if held},
    }
    if result.usage is not None and usage.completion_tokens:
        document["usage"] = {
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
            "input_tokens_details": {
                "text_tokens": usage.prompt_tokens - usage.image_input,
                "image_tokens": usage.image_input,
            },
        }
    return orjson.dumps(document)


def image_of(image: Mapping[str, Any], result: ImageResult, *, as_url: bool) -> dict[str, Any]:
    """One image as it came, or at an address that holds it."""
    if not as_url or "url" in image:
        return dict(image)
    kind = result.more.get("output_format") or "png"
    rest = {name: value for name, value in image.items() if name != "b64_json"}
    return {"url": f"data:image/{kind};base64,{image['b64_json']}", **rest}
