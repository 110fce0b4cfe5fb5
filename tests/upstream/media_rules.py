"""What OpenAI's endpoints of embeddings and images refuse, by model, with their own words."""

from __future__ import annotations

import re
from typing import Any

from . import openai_rules as rules
from .vendor import is_whole

EMBEDDING_FIELDS = {"input", "model", "dimensions", "encoding_format", "user"}
DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072}
MOST_INPUTS = 2048
IMAGE_FIELDS = {
    "prompt", "model", "n", "size", "quality", "style", "user", "background", "moderation", "output_format",
    "output_compression", "partial_images", "stream", "response_format",
}  # fmt: skip
OF_GPT_IMAGE = ("background", "moderation", "output_format", "output_compression", "partial_images", "stream")
SIZES = {
    "dall-e-2": ("256x256", "512x512", "1024x1024"),
    "dall-e-3": ("1024x1024", "1024x1792", "1792x1024"),
    "gpt-image-1": ("1024x1024", "1024x1536", "1536x1024", "auto"),
}
QUALITIES = {
    "dall-e-2": ("standard",),
    "dall-e-3": ("standard", "hd"),
    "gpt-image": ("low", "medium", "high", "auto"),
}
PROMPTS = {"dall-e-2": 1000, "dall-e-3": 4000, "gpt-image": 32000}
WORDS = {
    "style": ("vivid", "natural"),
    "response_format": ("url", "b64_json"),
    "background": ("transparent", "opaque", "auto"),
    "moderation": ("low", "auto"),
    "output_format": ("png", "jpeg", "webp"),
}


def check_embeddings(body: dict[str, Any]) -> None:
    """``body`` has a model; deployments and other servers' models keep only the rules that all share."""
    _only_known(body, EMBEDDING_FIELDS)
    _check_input(body.get("input"))
    _check_word(body, "encoding_format", ("float", "base64"))
    _check_text(body, "user")
    if (size := body.get("dimensions")) is None:
        return
    model = str(body["model"])
    if model.startswith("text-embedding-ada"):
        raise rules.refuse("This model does not support specifying dimensions.", "dimensions")
    _check_whole(body, "dimensions", 1, DIMENSIONS.get(model, size))


def _check_input(given: Any) -> None:
    if given is None:
        raise rules.missing("input")
    if isinstance(given, list) and len(given) > MOST_INPUTS and not isinstance(given[0], int):
        raise rules.refuse(
            f"Invalid 'input': array too long. Expected an array with maximum length {MOST_INPUTS}, but got an array "
            f"with length {len(given)} instead.",
            "input",
            "array_above_max_length",
        )
    if not (_is_one(given) or (isinstance(given, list) and given and all(_is_one(one) for one in given))):
        raise rules.refuse(
            "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."
        )


def _is_one(one: Any) -> bool:
    return bool(one) and (isinstance(one, str) or (isinstance(one, list) and all(is_whole(value) for value in one)))


def check_images(body: dict[str, Any]) -> None:
    """``body`` has a model."""
    _only_known(body, IMAGE_FIELDS)
    model = str(body["model"])
    family = next((name for name in QUALITIES if model.startswith(name)), None)
    if not body.get("prompt"):
        raise rules.missing("prompt")
    _check_text(body, "prompt", PROMPTS.get(family or ""))
    _check_text(body, "user")
    _check_whole(body, "n", 1, 1 if family == "dall-e-3" else 10)
    _check_whole(body, "output_compression", 0, 100)
    for name, words in WORDS.items():
        _check_word(body, name, words)
    _check_word(body, "quality", QUALITIES.get(family or "", sum(QUALITIES.values(), ())))
    sizes = next((sizes for name, sizes in SIZES.items() if model.startswith(name)), None)
    if sizes is not None:
        _check_word(body, "size", sizes)
    elif body.get("size") is not None and not re.fullmatch(r"auto|\d+x\d+", str(body["size"])):
        raise rules.refuse(f"Invalid size '{body['size']}'.", "size", "invalid_value")
    for name in _not_for(family):
        if body.get(name) is not None:
            raise rules.refuse(f"Unknown parameter: '{name}'.", name, "unknown_parameter")


def _not_for(family: str | None) -> tuple[str, ...]:
    if family == "gpt-image":
        return ("style", "response_format")
    return OF_GPT_IMAGE if family == "dall-e-3" else (*OF_GPT_IMAGE, "style") if family == "dall-e-2" else ()


def _only_known(body: dict[str, Any], fields: set[str]) -> None:
    unknown = sorted(set(body) - fields)
    if unknown:
        raise rules.refuse(f"Unknown parameter: '{unknown[0]}'.", unknown[0], "unknown_parameter")


def _check_word(body: dict[str, Any], name: str, words: tuple[str, ...]) -> None:
    if (said := body.get(name)) is None or said in words:
        return
    supported = ", ".join(f"'{word}'" for word in words)
    raise rules.refuse(f"Invalid value: '{said}'. Supported values are: {supported}.", name, "invalid_value")


def _check_text(body: dict[str, Any], name: str, most: int | None = None) -> None:
    if (said := body.get(name)) is None:
        return
    if not isinstance(said, str):
        raise rules.wrong_type(name, "a string", said)
    if most is not None and len(said) > most:
        raise rules.refuse(
            f"Invalid '{name}': string too long. Expected a string with maximum length {most}, but got a string with "
            f"length {len(said)} instead.",
            name,
            "string_above_max_length",
        )


def _check_whole(body: dict[str, Any], name: str, least: int, most: int) -> None:
    if (said := body.get(name)) is None:
        return
    if not is_whole(said):
        raise rules.wrong_type(name, "an integer", said)
    if not least <= said <= most:
        bound, side = (f">= {least}", "below_min") if said < least else (f"<= {most}", "above_max")
        raise rules.refuse(
            f"Invalid '{name}': integer {side.replace('_', ' ')} value. Expected a value {bound}, but got {said} "
            "instead.",
            name,
            f"integer_{side}_value",
        )
