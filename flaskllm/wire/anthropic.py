"""Anthropic's dialect at the door: its questions as ours. Its answers are written in ``wire/anthropic_answers.py``.

What we know is checked by a table (``docs/adr/0005-tables-on-hot-doors.md``). Where the provider speaks this dialect
too the body goes on as it came (`Native`), so that nothing is lost; for all others it is said in OpenAI's words, and
what has none is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flaskllm.domain.chat import ChatRequest, Native
from flaskllm.errors import Detail, DomainError, invalid, refuse
from flaskllm.wire import shapes
from flaskllm.wire.carried import call_of, google_signature
from flaskllm.wire.checks import (
    MOST_FIELDS,
    MOST_MESSAGES,
    MOST_TOOLS,
    REFUSED,
    SAFE_INTEGER,
    Check,
    boolean,
    faults_of,
    given_of,
    integer,
    mapping,
    number,
    sequence,
    text,
)
from flaskllm.wire.shapes import of_form

WIRE = "anthropic"
MOST_STOPS, LEAST_BUDGET = 64, 1024
EFFORTS = ("low", "medium", "high", "xhigh", "max")
TIERS = {"auto": "auto", "standard_only": "default"}
IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
HINTS = frozenset({"user", "cache_control"})
"""Who asks, and what may be kept for later: no answer hangs on either, so that nobody is refused for it."""
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_BETAS = re.compile(r"[A-Za-z0-9 ,._-]{1,2000}")
_BUDGETS = ((2048, "low"), (12_288, "medium"))
_ADDRESS = "^https?://"


class Asked(NamedTuple):
    """A question, and the caller's names for its fields, by ours."""

    chat: ChatRequest
    places: Mapping[str, str]


# -- the table ---------------------------------------------------------------------------------------------------------


@of_form(type="array", maxItems=MOST_STOPS, items=shapes.STRING)
def stop_sequences(value: Any) -> str | None:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        return "must be a list of strings"
    return None if len(value) <= MOST_STOPS else f"must have at most {MOST_STOPS} entries"


@of_form(
    type="object", properties={"user_id": {"type": ["string", "null"], "maxLength": 512, "pattern": shapes.NO_NUL}}
)
def metadata(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "must be an object"
    user = value.get("user_id")
    fault = None if user is None else text(512)(user)
    return f"holds a user_id that {fault}" if fault else None


@of_form(
    type="object",
    properties={"type": shapes.one_of("enabled", "disabled", "adaptive", "between_tools")},
    required=["type"],
    **{
        "if": {"properties": {"type": {"const": "enabled"}}},
        "then": {
            "properties": {"budget_tokens": {"type": "integer", "minimum": LEAST_BUDGET, "maximum": SAFE_INTEGER}},
            "required": ["budget_tokens"],
        },
    },
)
def thinking(value: Any) -> str | None:
    kinds = ("enabled", "disabled", "adaptive", "between_tools")
    if not isinstance(value, dict) or value.get("type") not in kinds:
        return f"must be an object whose type is one of {', '.join(kinds)}"
    fault = integer(LEAST_BUDGET, SAFE_INTEGER)(value.get("budget_tokens")) if value["type"] == "enabled" else None
    return f"holds budget_tokens that {fault}" if fault else None


_FORMAT: shapes.Shape = {
    "type": ["object", "null"],
    "properties": {"type": {"const": "json_schema"}, "schema": shapes.ANY_OBJECT},
    "required": ["type", "schema"],
}


@of_form(type="object", properties={"effort": shapes.one_of(*EFFORTS, None), "format": _FORMAT})
def output_config(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "must be an object"
    if value.get("effort") not in (*EFFORTS, None):
        return f"holds an effort that must be one of {', '.join(EFFORTS)}"
    wanted = value.get("format")
    is_schema = isinstance(wanted, dict) and wanted.get("type") == "json_schema"
    if wanted is not None and not (is_schema and isinstance(wanted.get("schema"), dict)):
        return "holds a format that must have the type json_schema and a schema"
    return None


@of_form(
    type="object",
    properties={
        "type": shapes.one_of("auto", "any", "tool", "none"),
        "disable_parallel_tool_use": {"type": ["boolean", "null"]},
    },
    required=["type"],
    **{
        "if": {"properties": {"type": {"const": "tool"}}},
        "then": {"properties": {"name": shapes.STRING}, "required": ["name"]},
    },
)
def tool_choice(value: Any) -> str | None:
    if not isinstance(value, dict) or value.get("type") not in ("auto", "any", "tool", "none"):
        return "must be an object whose type is auto, any, tool or none"
    if value["type"] == "tool" and not isinstance(value.get("name"), str):
        return "must name a tool"
    single = value.get("disable_parallel_tool_use")
    return None if single is None or isinstance(single, bool) else "holds disable_parallel_tool_use: true or false"


@of_form(**shapes.one_of(*TIERS))
def service_tier(value: Any) -> str | None:
    return None if isinstance(value, str) and value in TIERS else f"must be one of {', '.join(TIERS)}"


_TEXT_BLOCK: shapes.Shape = {
    "type": "object", "properties": {"type": {"const": "text"}, "text": shapes.STRING}, "required": ["type", "text"],
}  # fmt: skip


@of_form(anyOf=[shapes.STRING, shapes.several(_TEXT_BLOCK)])
def system(value: Any) -> str | None:
    blocks = [] if isinstance(value, str) else value
    if not isinstance(blocks, list):
        return "must be a string or a list of text blocks"
    fits = all(
        isinstance(one, dict) and one.get("type") == "text" and isinstance(one.get("text"), str) for one in blocks
    )
    return None if fits else "must be a string or a list of text blocks"


PARAMS: dict[str, Check] = {
    "cache_control": mapping,
    "max_tokens": integer(1, SAFE_INTEGER),
    "metadata": metadata,
    "output_config": output_config,
    "service_tier": service_tier,
    "stop_sequences": stop_sequences,
    "system": system,
    "temperature": number(0, 1),
    "thinking": thinking,
    "tool_choice": tool_choice,
    "tools": sequence(MOST_TOOLS),
    "top_k": integer(0, SAFE_INTEGER),
    "top_p": number(0, 1),
}
"""Parameters of ``/v1/messages`` that we know; source: Anthropic's API reference."""
ENVELOPE: dict[str, Check] = {
    "model": text(256, least=1),
    "messages": sequence(MOST_MESSAGES),
    "stream": boolean,
    "drop_params": boolean,
}
SAID_OTHERWISE = frozenset(PARAMS) - {"cache_control", "top_k"}
"""Parameters that OpenAI's words can say; the others go on by their own name to whoever knows it."""


def read_messages(body: dict[str, Any], *, betas: str | None = None) -> Asked:
    """A ``/v1/messages`` body; ``betas``: the header ``anthropic-beta``.

    Raises `InvalidRequest` naming what is at fault. A field that is null counts as absent.
    """
    return _read(body, ("model", "max_tokens", "messages"), betas)


def read_count(body: dict[str, Any], *, betas: str | None = None) -> Asked:
    """A ``/v1/messages/count_tokens`` body: the same question, which nobody has to answer."""
    return _read(body, ("model", "messages"), betas)


def _read(body: dict[str, Any], needed: Sequence[str], betas: str | None) -> Asked:
    given = _checked(body, needed)
    turns, tools = _Turns(), _Tools()
    turns.begin(given.get("system"))
    for place, message in enumerate(given["messages"]):
        turns.add(message, f"messages[{place}]")
    for place, tool in enumerate(given.get("tools") or ()):
        tools.add(tool, f"tools[{place}]")
    native = Native(
        WIRE,
        None if turns.is_mixed else {name: value for name, value in given.items() if name != "drop_params"},
        headers=_headers(betas),
        only=[*turns.only, *tools.only],
    )
    user = (given.get("metadata") or {}).get("user_id")
    chat = ChatRequest(
        model=given["model"],
        messages=turns.messages,
        params=_params(given, tools.functions),
        extras={name: value for name, value in given.items() if name not in SAID_OTHERWISE and name not in ENVELOPE},
        stream=given.get("stream", False),
        include_usage=True,
        drop_params=given.get("drop_params", False),
        metadata={"user_id": user} if user else {},
        native=native,
        hints=HINTS,
    )
    return Asked(chat, {**turns.places, **_param_places(given)})


def _checked(body: dict[str, Any], needed: Sequence[str]) -> dict[str, Any]:
    """The fields that are there, each known one looked at."""
    given = given_of(body)
    refuse(Detail(field=name, message="is missing") for name in needed if name not in given)
    refuse(faults_of(given, ENVELOPE | PARAMS))
    if not given["messages"]:
        raise invalid("messages", "must have at least one message")
    return given


def _headers(betas: str | None) -> dict[str, str]:
    if not betas:
        return {}
    if not _BETAS.fullmatch(betas):
        raise invalid("anthropic-beta", "must be names with commas between them")
    return {"anthropic-beta": betas}


def _params(given: Mapping[str, Any], functions: list[dict[str, Any]]) -> dict[str, Any]:
    """What OpenAI has words for."""
    params = {name: given[name] for name in ("max_tokens", "temperature", "top_p") if name in given}
    config = given.get("output_config") or {}
    found = {
        "stop": given.get("stop_sequences") or None,
        "user": (given.get("metadata") or {}).get("user_id"),
        "service_tier": TIERS.get(given.get("service_tier", "")),
        "reasoning_effort": _effort(given.get("thinking") or {}, config),
        "response_format": _response_format(config.get("format")),
        "tools": functions or None,
    }
    params |= {name: value for name, value in found.items() if value is not None}
    return params | _choice(given.get("tool_choice") or {}, has_tools=bool(functions))


def _effort(wanted: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """A budget in tokens is a word elsewhere; how hard to think comes before how long."""
    if config.get("effort"):
        return str(config["effort"])
    if wanted.get("type") != "enabled":
        return None
    return next((word for most, word in _BUDGETS if wanted["budget_tokens"] <= most), "high")


def _response_format(wanted: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if wanted is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted["schema"]}}


def _choice(choice: Mapping[str, Any], *, has_tools: bool) -> dict[str, Any]:
    """``tool_choice`` and ``parallel_tool_calls``; without tools, what would choose none of them is left out."""
    kind = choice.get("type")
    if kind is None or (kind in ("auto", "none") and not has_tools):
        return {}
    said: Any = {"auto": "auto", "none": "none", "any": "required"}.get(kind)
    params = {"tool_choice": said or {"type": "function", "function": {"name": choice["name"]}}}
    return {**params, "parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") else params


# -- tools -------------------------------------------------------------------------------------------------------------


class _Tools:
    """The caller's own tools as OpenAI's functions. Those that Anthropic runs itself nobody else has."""

    def __init__(self) -> None:
        self.functions: list[dict[str, Any]] = []
        self.only: list[str] = []

    def add(self, tool: Any, where: str) -> None:
        if not isinstance(tool, dict):
            raise invalid(where, "must be an object")
        kind = tool.get("type")
        if kind is not None and not isinstance(kind, str):
            raise invalid(f"{where}.type", "must be a string")
        if kind in (None, "custom"):
            self.functions.append(_function(tool, where))
        else:
            self.only.append(where)


def _function(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(tool.get("name"), str):
        raise invalid(f"{where}.name", "must be a string")
    if not isinstance(tool.get("input_schema"), dict):
        raise invalid(f"{where}.input_schema", "must be an object")
    if not isinstance(tool.get("description"), str | None):
        raise invalid(f"{where}.description", "must be a string")
    function = {"name": tool["name"], "parameters": tool["input_schema"]}
    if tool.get("description"):
        function["description"] = tool["description"]
    if tool.get("strict") is True:
        function["strict"] = True
    return _marked({"type": "function", "function": function}, tool)


# -- messages ----------------------------------------------------------------------------------------------------------


class _Turns:
    """Anthropic's turns as OpenAI's messages.

    ``places``: our names of fields to the caller's. ``only``: blocks that nobody but Anthropic knows. ``is_mixed``:
    ids or signatures of other vendors are among them, which Anthropic would refuse.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.places: dict[str, str] = {}
        self.only: list[str] = []
        self.is_mixed = False

    def begin(self, given: str | list[dict[str, Any]] | None) -> None:
        """The system's message, where there is one."""
        if given:
            parts = [_marked({"type": "text", "text": block["text"]}, block) for block in _blocks(given)]
            self._say(
                {"role": "system", "content": _slim(parts)}, "system", [f"system[{n}]" for n in range(len(parts))]
            )

    def add(self, message: Any, where: str) -> None:
        if not isinstance(message, dict):
            raise invalid(where, "must be an object")
        role, content = message.get("role"), message.get("content")
        if role not in ("user", "assistant"):
            raise invalid(f"{where}.role", "must be user or assistant")
        if not isinstance(content, str | list) or not (content or role == "assistant"):
            raise invalid(f"{where}.content", "must be a text or a list of blocks, and not empty")
        blocks = [(f"{where}.content[{place}]", _typed(block, f"{where}.content[{place}]"))
                  for place, block in enumerate(_blocks(content))]  # fmt: skip
        if role == "user":
            self._user(blocks, where)
        else:
            self._assistant(blocks, where)

    def _say(self, message: dict[str, Any], where: str, parts: Sequence[str] = ()) -> None:
        name = f"messages[{len(self.messages)}]"
        self.places[name] = where
        for place, at in enumerate(parts):
            self.places[f"{name}.content[{place}]"] = at
        self.messages.append(message)

    # -- the user's ------------------------------------------------------------------------------------------------

    def _user(self, blocks: list[tuple[str, dict[str, Any]]], where: str) -> None:
        """Results of tools are messages of their own and come first; images among them are shown after them."""
        parts: list[dict[str, Any]] = []
        places: list[str] = []
        for at, block in blocks:
            found = self._result(block, at) if block["type"] == "tool_result" else self._parts(block, at)
            parts += found
            places += [at] * len(found)
        if parts:
            self._say({"role": "user", "content": _slim(parts)}, where, places)

    def _result(self, block: dict[str, Any], at: str) -> list[dict[str, Any]]:
        """A tool's message is text here; gives what else it holds."""
        call_id = self._id(block.get("tool_use_id"), f"{at}.tool_use_id")[0]
        content, is_error = block.get("content"), block.get("is_error")
        if not isinstance(content, str | list | None):
            raise invalid(f"{at}.content", "must be a text or a list of blocks")
        if not isinstance(is_error, bool | None):
            raise invalid(f"{at}.is_error", "must be true or false")
        parts: list[dict[str, Any]] = []
        for place, inner in enumerate(_blocks(content or [])):
            parts += self._parts(_typed(inner, f"{at}.content[{place}]"), f"{at}.content[{place}]")
        said = "\n".join(part["text"] for part in parts if part["type"] == "text")
        message = {"role": "tool", "tool_call_id": call_id, "content": said}
        self._say(_marked({**message, "is_error": True} if is_error else message, block), at)
        shown = [part for part in parts if part["type"] != "text"]
        return [{"type": "text", "text": f"From the result of {call_id}:"}, *shown] if shown else []

    def _parts(self, block: dict[str, Any], at: str) -> list[dict[str, Any]]:
        reader = _READERS.get(block["type"])
        found = reader(block, at) if reader else None
        return self._unknown(block, at) if found is None else [_marked(part, block) for part in found]

    def _unknown(self, block: dict[str, Any], at: str) -> list[dict[str, Any]]:
        """Counts as the text it is written in, and goes to Anthropic alone."""
        self.only.append(at)
        return [{"type": "text", "text": json.dumps(block, ensure_ascii=False)}]

    # -- the model's -----------------------------------------------------------------------------------------------

    def _assistant(self, blocks: list[tuple[str, dict[str, Any]]], where: str) -> None:
        message: dict[str, Any] = {"role": "assistant", "content": None}
        texts: list[str] = []
        for at, block in blocks:
            kind = block["type"]
            if kind == "text":
                texts.append(_string(block, "text", at))
            elif kind == "tool_use":
                message.setdefault("tool_calls", []).append(self._call(block, at))
            elif kind == "thinking":
                self._thought(block, at, message)
            elif kind == "redacted_thinking":
                thought = {"type": kind, "data": _string(block, "data", at)}
                message.setdefault("thinking_blocks", []).append(thought)
            else:
                texts += [part["text"] for part in self._unknown(block, at)]
        if texts or "tool_calls" not in message:
            message["content"] = "".join(texts)
        self._say(message, where)

    def _call(self, block: dict[str, Any], at: str) -> dict[str, Any]:
        call_id, signature = self._id(block.get("id"), f"{at}.id")
        if not isinstance(block.get("input"), dict):
            raise invalid(f"{at}.input", "must be an object")
        function = {"name": _string(block, "name", at), "arguments": json.dumps(block["input"], ensure_ascii=False)}
        call = {"id": call_id, "type": "function", "function": function}
        return {**call, "extra_content": _google(signature)} if signature else call

    def _id(self, given: Any, where: str) -> tuple[str, str | None]:
        """A call's id as its provider gave it, and the signature that we put into it."""
        if not isinstance(given, str) or not given:
            raise invalid(where, "must be a string, and not empty")
        call_id, signature = call_of(given)
        self.is_mixed = self.is_mixed or signature is not None or not _ID.fullmatch(call_id)
        return call_id, signature

    def _thought(self, block: dict[str, Any], at: str, message: dict[str, Any]) -> None:
        """Signed by Anthropic, by Google, or by nobody."""
        said, signature = _string(block, "thinking", at), _string(block, "signature", at)
        message["reasoning_content"] = message.get("reasoning_content", "") + said
        if not signature:
            self.is_mixed = True
        elif (others := google_signature(signature)) is not None:
            self.is_mixed = True
            message["extra_content"] = _google(others)
        else:
            thought = {"type": "thinking", "thinking": said, "signature": signature}
            message.setdefault("thinking_blocks", []).append(thought)


def _google(signature: str) -> dict[str, Any]:
    return {"google": {"thought_signature": signature}}


def _blocks(content: str | list[Any]) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _typed(block: Any, at: str) -> dict[str, Any]:
    if not isinstance(block, dict):
        raise invalid(at, "must be an object")
    if not isinstance(block.get("type"), str):
        raise invalid(f"{at}.type", "must be a string")
    return block


def _string(block: Mapping[str, Any], name: str, at: str) -> str:
    if not isinstance(found := block.get(name), str):
        raise invalid(f"{at}.{name}", "must be a string")
    return found


def _slim(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """One plain text as a string: many servers know nothing else."""
    return parts[0]["text"] if len(parts) == 1 and parts[0].keys() == {"type", "text"} else parts


def _marked(part: dict[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """With the block's mark for the cache, which has to be an object."""
    mark = block.get("cache_control")
    return {**part, "cache_control": mark} if isinstance(mark, dict) else part


# -- blocks that OpenAI has parts for ----------------------------------------------------------------------------------


def _text(block: dict[str, Any], at: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": _string(block, "text", at)}]


def _image(block: dict[str, Any], at: str) -> list[dict[str, Any]] | None:
    kind, source = _source(block, at)
    if kind == "base64":
        url = _data_url(source, at, IMAGE_TYPES)
    elif kind == "url":
        url = _address(source, at)
    else:
        return None
    return [{"type": "image_url", "image_url": {"url": url}}]


def _document(block: dict[str, Any], at: str) -> list[dict[str, Any]] | None:
    kind, source = _source(block, at)
    title = block.get("title")
    if not isinstance(title, str | None):
        raise invalid(f"{at}.title", "must be a string")
    if kind == "text":
        return [{"type": "text", "text": "\n\n".join(filter(None, (title, _string(source, "data", f"{at}.source"))))}]
    name = {"filename": title or "document.pdf"}
    if kind == "base64":
        return [{"type": "file", "file": {**name, "file_data": _data_url(source, at, ("application/pdf",))}}]
    return [{"type": "file", "file": {**name, "file_url": _address(source, at)}}] if kind == "url" else None


def _search_result(block: dict[str, Any], at: str) -> list[dict[str, Any]]:
    content = block.get("content")
    if not isinstance(content, list):
        raise invalid(f"{at}.content", "must be a list of text blocks")
    texts = [
        _string(_typed(inner, f"{at}.content[{place}]"), "text", f"{at}.content[{place}]")
        for place, inner in enumerate(content)
    ]
    head = f"{_string(block, 'title', at)} ({_string(block, 'source', at)})"
    return [{"type": "text", "text": "\n\n".join([head, *texts])}]


_READERS = {"text": _text, "image": _image, "document": _document, "search_result": _search_result}
"""A block as parts of a message; None where its source is one that only Anthropic has."""


def _source(block: dict[str, Any], at: str) -> tuple[str, dict[str, Any]]:
    source = block.get("source")
    if not isinstance(source, dict):
        raise invalid(f"{at}.source", "must be an object")
    return _string(source, "type", f"{at}.source"), source


def _data_url(source: dict[str, Any], at: str, types: Sequence[str]) -> str:
    if source.get("media_type") not in types:
        raise invalid(f"{at}.source.media_type", f"must be one of {', '.join(types)}")
    if not _string(source, "data", f"{at}.source"):
        raise invalid(f"{at}.source.data", "must be base64, and not empty")
    return f"data:{source['media_type']};base64,{source['data']}"


def _address(source: dict[str, Any], at: str) -> str:
    url = _string(source, "url", f"{at}.source")
    if not url.startswith(("http://", "https://")):
        raise invalid(f"{at}.source.url", "must be an http(s) address")
    return url


# -- the caller's names ------------------------------------------------------------------------------------------------

_NAMES = {
    "stop": "stop_sequences",
    "user": "metadata.user_id",
    "response_format": "output_config.format",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
}
_ENDINGS = ((".image_url.url", ".source.url"), (".file.file_url", ".source.url"), (".file.file_data", ".source.data"))


def _param_places(given: Mapping[str, Any]) -> dict[str, str]:
    effort = (given.get("output_config") or {}).get("effort")
    return {**_NAMES, "reasoning_effort": "output_config.effort" if effort else "thinking"}


def in_callers_words(error: DomainError, asked: Asked) -> DomainError:
    """The error with its fields named as the caller sent them, since the hall knows OpenAI's names alone."""
    for detail in error.details:
        ours = detail["field"]
        detail["field"] = _theirs(ours, asked.places)
        if error.message.startswith(f"{ours}: "):
            error.message = f"{detail['field']}: {error.message.removeprefix(f'{ours}: ')}"
    return error


def _theirs(field: str, places: Mapping[str, str]) -> str:
    head, rest = field, ""
    while head:
        if head in places:
            for ours, theirs in _ENDINGS:
                rest = theirs if rest == ours else rest
            return places[head] + rest
        cut = max(head.rfind("."), head.rfind("["), 0)
        head, rest = head[:cut], head[cut:] + rest
    return field


# -- forms for the document --------------------------------------------------------------------------------------------


def _block_form(kind: str, needed: Mapping[str, shapes.Shape], **more: shapes.Shape) -> shapes.Shape:
    return {
        "type": "object",
        "properties": {"type": {"const": kind}, **needed, **more},
        "required": ["type", *needed],
    }


_ADDRESS_FORM: shapes.Shape = {
    "type": "object",
    "properties": {"type": {"const": "url"}, "url": {"type": "string", "pattern": _ADDRESS}},
    "required": ["type", "url"],
}


def _base64_form(*types: str) -> shapes.Shape:
    return {
        "type": "object",
        "properties": {
            "type": {"const": "base64"},
            "media_type": shapes.one_of(*types),
            "data": {"type": "string", "minLength": 1},
        },
        "required": ["type", "media_type", "data"],
    }


_TEXT_SOURCE: shapes.Shape = {
    "type": "object", "properties": {"type": {"const": "text"}, "data": shapes.STRING}, "required": ["type", "data"],
}  # fmt: skip
_SHOWN = [
    _TEXT_BLOCK,
    _block_form("image", {"source": {"oneOf": [_base64_form(*IMAGE_TYPES), _ADDRESS_FORM]}}),
    _block_form(
        "document",
        {"source": {"oneOf": [_base64_form("application/pdf"), _TEXT_SOURCE, _ADDRESS_FORM]}},
        title={"type": ["string", "null"]},
    ),
    _block_form(
        "search_result",
        {"source": shapes.STRING, "title": shapes.STRING, "content": shapes.several(_TEXT_BLOCK)},
    ),
]
_CALL_ID: shapes.Shape = {"type": "string", "minLength": 1}
_RESULT = _block_form(
    "tool_result",
    {"tool_use_id": _CALL_ID},
    content={"anyOf": [{"type": ["string", "null"]}, shapes.several({"oneOf": _SHOWN})]},
    is_error={"type": ["boolean", "null"]},
)
_SAID = [
    _TEXT_BLOCK,
    _block_form("tool_use", {"id": _CALL_ID, "name": shapes.STRING, "input": shapes.ANY_OBJECT}),
    _block_form("thinking", {"thinking": shapes.STRING, "signature": shapes.STRING}),
    _block_form("redacted_thinking", {"data": shapes.STRING}),
]


def _turn_form(role: str, blocks: list[shapes.Shape], least: int) -> shapes.Shape:
    content = {"anyOf": [{"type": "string", "minLength": least}, shapes.several({"oneOf": blocks}, minItems=least)]}
    return {
        "type": "object",
        "properties": {"role": {"const": role}, "content": content},
        "required": ["role", "content"],
    }


TURN: shapes.Shape = {
    "title": "MessageTurn",
    "description": "Blocks of other types go on to Anthropic; for other providers they are refused by name.",
    "oneOf": [_turn_form("user", [*_SHOWN, _RESULT], 1), _turn_form("assistant", _SAID, 0)],
}
TOOL: shapes.Shape = {
    "title": "MessageTool",
    "type": "object",
    "description": "Tools of other types go on to Anthropic; for other providers they are refused by name.",
    "properties": {"type": {"type": ["string", "null"]}},
    "if": {"properties": {"type": shapes.one_of("custom", None)}},
    "then": {
        "properties": {
            "name": shapes.STRING,
            "description": {"type": ["string", "null"]},
            "input_schema": shapes.ANY_OBJECT,
        },
        "required": ["name", "input_schema"],
    },
}


def _form(title: str, *needed: str) -> shapes.Shape:
    checks = ENVELOPE | PARAMS
    return {
        "title": title,
        "type": "object",
        "description": "A field that is null counts as absent, unless it is required. Fields not named here go on to "
        "Anthropic; another provider's are refused by name, as is what only an administrator may set.",
        "properties": {
            **{
                name: shapes.form_of(check) if name in needed else shapes.maybe(shapes.form_of(check))
                for name, check in checks.items()
            },
            "messages": shapes.several(TURN, minItems=1, maxItems=MOST_MESSAGES),
            "tools": shapes.maybe(shapes.several(TOOL, maxItems=MOST_TOOLS)),
        },
        "required": list(needed),
        "maxProperties": MOST_FIELDS,
        "propertyNames": {"not": {"anyOf": [shapes.one_of(*sorted(REFUSED)), {"pattern": "^extra_"}]}},
    }


MESSAGES = _form("MessagesRequest", "model", "max_tokens", "messages")
COUNT = _form("CountTokensRequest", "model", "messages")
COUNTED: shapes.Shape = shapes.record("CountedTokens", input_tokens=shapes.COUNT)
