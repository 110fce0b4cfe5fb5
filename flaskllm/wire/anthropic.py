"""Anthropic's dialect at the door: its questions as ours. Its answers are written in ``wire/anthropic_answers.py``.

What we know is checked by a table (``docs/adr/0005-tables-on-hot-doors.md``). Where the provider speaks this dialect
too the body goes on as it came (`Native`), so that nothing is lost; for all others it is said in OpenAI's words, and
what has none is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flaskllm.domain.chat import ChatRequest, Native
from flaskllm.errors import Detail, DomainError, invalid, refuse
from flaskllm.wire import shapes
from flaskllm.wire.anthropic_turns import Turns, marked
from flaskllm.wire.checks import (
    MOST_MESSAGES,
    MOST_TOOLS,
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
HINTS = frozenset({"user", "cache_control"})
"""Who asks, and what may be kept for later: no answer hangs on either, so that nobody is refused for it."""
_BETAS = re.compile(r"[A-Za-z0-9 ,._-]{1,2000}")
_BUDGETS = ((2048, "low"), (12_288, "medium"))


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


TEXT_BLOCK: shapes.Shape = {
    "type": "object", "properties": {"type": {"const": "text"}, "text": shapes.STRING}, "required": ["type", "text"],
}  # fmt: skip


@of_form(anyOf=[shapes.STRING, shapes.several(TEXT_BLOCK)])
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
    turns, tools = Turns(), _Tools()
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
    return marked({"type": "function", "function": function}, tool)


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
