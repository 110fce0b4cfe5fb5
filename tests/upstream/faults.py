"""Behaviours: what a test may tell the simulator to do with the next requests.

A behaviour is a list of named steps with JSON-able arguments, so it can be added to another with `+` and sent over the
control port. A step on the *answer* changes what is said, in no vendor's words; a step on the *reply* changes the bytes
or how they travel. Times are seconds unless the name says `ms`; `k` counts the frames that still go out.
"""

from __future__ import annotations

import base64
import gzip
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from time import time
from typing import Any, Concatenate, ParamSpec

from .core import Answer, Ask, Frame, ToolCall, Usage, output_tokens
from .transport import Reply, Request
from .vendor import Wire

P = ParamSpec("P")
FILLER = "@@filler@@"
"""The word that `huge` replaces by megabytes."""


@dataclass
class Call:
    """One accepted request on its way through the steps."""

    wire: Wire
    ask: Ask
    answer: Answer
    request: Request
    key: str | None


@dataclass(frozen=True)
class Behaviour:
    """Named steps in the order in which they are applied."""

    steps: tuple[tuple[str, dict[str, Any]], ...] = field(default=())

    def __add__(self, other: Behaviour | str) -> Behaviour:
        return Behaviour(self.steps + behaviour(other).steps)

    def change_answer(self, answer: Answer, call: Call) -> None:
        for name, arguments in self.steps:
            if name in _ANSWER_STEPS:
                _ANSWER_STEPS[name](answer, call, **arguments)

    def change_reply(self, reply: Reply, call: Call) -> None:
        for name, arguments in self.steps:
            if name in _REPLY_STEPS:
                _REPLY_STEPS[name](reply, call, **arguments)

    def to_json(self) -> list[list[Any]]:
        return [[name, {key: _packed(value) for key, value in arguments.items()}] for name, arguments in self.steps]

    @classmethod
    def from_json(cls, steps: list[Any]) -> Behaviour:
        return cls(
            tuple((name, {key: _unpacked(value) for key, value in arguments.items()}) for name, arguments in steps)
        )


def behaviour(what: Behaviour | str) -> Behaviour:
    """A behaviour as it is, or by name: a step that needs no arguments, or an `upstream` text of the attack corpus."""
    if isinstance(what, Behaviour):
        return what
    if what in CORPUS:
        return CORPUS[what]
    if what in _MAKERS:
        return _MAKERS[what]()
    raise ValueError(f"no behaviour is called {what!r}; there are {sorted(_MAKERS)} and {sorted(CORPUS)}")


def _packed(value: Any) -> Any:
    return {"$base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _unpacked(value: Any) -> Any:
    return base64.b64decode(value["$base64"]) if isinstance(value, dict) and set(value) == {"$base64"} else value


_ANSWER_STEPS: dict[str, Callable[..., None]] = {}
_REPLY_STEPS: dict[str, Callable[..., None]] = {}
_MAKERS: dict[str, Callable[..., Behaviour]] = {}


def _maker(step: Callable[..., None], steps: dict[str, Callable[..., None]]) -> Callable[..., Behaviour]:
    """The public function of the step's name: takes the step's own arguments, gives the behaviour."""
    name = step.__name__
    signature = inspect.signature(step)
    own = signature.replace(parameters=list(signature.parameters.values())[2:], return_annotation=Behaviour)

    def make(*args: Any, **kwargs: Any) -> Behaviour:
        return Behaviour(((name, dict(own.bind(*args, **kwargs).arguments)),))

    make.__name__, make.__doc__ = name, step.__doc__
    steps[name], _MAKERS[name] = step, make
    return make


def _on_answer(step: Callable[Concatenate[Answer, Call, P], None]) -> Callable[P, Behaviour]:
    return _maker(step, _ANSWER_STEPS)


def _on_reply(step: Callable[Concatenate[Reply, Call, P], None]) -> Callable[P, Behaviour]:
    return _maker(step, _REPLY_STEPS)


# --- what is said -------------------------------------------------------------------------------------------------


@_on_answer
def text(answer: Answer, call: Call, words: str) -> None:
    """Answer with this text."""
    answer.text, answer.calls, answer.finish = words, [], "stop"
    answer.usage.output = output_tokens(answer) * call.ask.count


@_on_answer
def tool_calls(answer: Answer, call: Call, calls: list[Any]) -> None:
    """Call tools: each is [name, arguments]; arguments as a string go out as they are, where the wire has strings."""
    answer.text, answer.finish = "", "tool"
    answer.calls = [
        ToolCall(
            f"{answer.number:06d}{index}",
            name,
            given if isinstance(given, dict) else {},
            given if isinstance(given, str) else None,
        )
        for index, (name, given) in enumerate(calls)
    ]
    answer.usage.output = output_tokens(answer) * call.ask.count


@_on_answer
def thinking(answer: Answer, call: Call, words: str = "let me think") -> None:
    """Reasoning before the answer; counts as reasoning tokens and shows where the wire shows it."""
    answer.thinking = words
    answer.usage.reasoning = len(words.split())


@_on_answer
def finish(answer: Answer, call: Call, reason: str) -> None:
    """End with this reason: stop, length, tool, filter, or a word of the vendor's own (pause_turn, SPII …)."""
    answer.finish = reason


@_on_answer
def usage(
    answer: Answer,
    call: Call,
    *,
    input: int | None = None,
    output: int | None = None,
    cached: int | None = None,
    cache_write: int | None = None,
    reasoning: int | None = None,
) -> None:
    """Report these tokens, in buckets that do not overlap; what is left out stays as counted."""
    given = {"input": input, "output": output, "cached": cached, "cache_write": cache_write, "reasoning": reasoning}
    for bucket, tokens in given.items():
        if tokens is not None:
            setattr(answer.usage, bucket, tokens)


@_on_answer
def model_name(answer: Answer, call: Call, name: str = "another-model-2026") -> None:
    """Name another model in the answer than the one asked for."""
    answer.model = name


# --- status and errors --------------------------------------------------------------------------------------------


@_on_reply
def status(
    reply: Reply,
    call: Call,
    code: int,
    *,
    retry_after: float | str | None = None,
    message: str | None = None,
    headers: dict[str, str] | None = None,
) -> None:
    """The vendor's own error. retry_after: seconds, `date+N` for an HTTP date, `Nms` for the header retry-after-ms."""
    refusal = call.wire.typical(code)
    refusal.message = message or refusal.message
    _become_error(reply, call, refusal)
    reply.headers.update(_retry_headers(retry_after))
    reply.headers.update(headers or {})


@_on_reply
def insufficient_quota(reply: Reply, call: Call) -> None:
    """429 that no waiting heals: the account has no money left."""
    _become_error(reply, call, call.wire.out_of_quota())


@_on_reply
def content_filter(reply: Reply, call: Call) -> None:
    """The prompt is blocked: Azure's 400, Gemini's answer without candidates, a refusal elsewhere."""
    blocked = call.wire.prompt_blocked(call.ask)
    if isinstance(blocked, dict):
        call.answer.usage = Usage(input=call.ask.input_tokens)
        _become_json(reply, blocked)
        if call.ask.stream:
            reply.frames = [Frame(blocked)]
    else:
        _become_error(reply, call, blocked)


@_on_reply
def echo_key(reply: Reply, call: Call, code: int = 401) -> None:
    """An error that quotes the whole key it was sent."""
    refusal = call.wire.typical(code)
    refusal.message = f"Incorrect API key provided: {call.key}. Header was: Bearer {call.key}"
    _become_error(reply, call, refusal)


@_on_reply
def error_in_200(reply: Reply, call: Call, code: int = 500) -> None:
    """Status 200, but the body (or the first frame) is the error of this status."""
    data = call.wire.error(call.wire.typical(code))
    reply.failed = True
    _become_json(reply, data)
    if call.ask.stream:
        reply.frames = [call.wire.error_frame(call.wire.typical(code))]


@_on_reply
def error_mid_stream(reply: Reply, call: Call, k: int = 2, code: int = 529) -> None:
    """After k frames an error frame, then the stream ends."""
    if reply.frames is not None:
        reply.failed = True
        reply.frames = [*reply.frames[:k], call.wire.error_frame(call.wire.typical(code))]


@_on_reply
def redirect(reply: Reply, call: Call, to: str = "/elsewhere", code: int = 302) -> None:
    """Point to another path."""
    _become_body(reply, b"", "text/html", code)
    reply.headers["location"] = to


def _retry_headers(retry_after: float | str | None) -> dict[str, str]:
    if retry_after is None:
        return {}
    said = str(retry_after)
    if said.endswith("ms"):
        return {"retry-after-ms": said[:-2]}
    if said.startswith("date+"):
        return {"retry-after": formatdate(time() + float(said[5:]), usegmt=True)}
    return {"retry-after": said}


def _become_error(reply: Reply, call: Call, refusal: Any) -> None:
    _become_json(reply, call.wire.error(refusal), refusal.status)
    reply.headers.update(refusal.headers)


def _become_json(reply: Reply, data: Any, code: int = 200) -> None:
    _become_body(reply, json.dumps(data).encode(), "application/json", code)


def _become_body(reply: Reply, body: bytes, content_type: str, code: int = 200) -> None:
    reply.status, reply.body, reply.frames = code, body, None
    reply.headers["content-type"] = content_type


# --- time ---------------------------------------------------------------------------------------------------------


@_on_reply
def delay(reply: Reply, call: Call, seconds: float) -> None:
    """Wait before the status line."""
    reply.delay = seconds


@_on_reply
def first_delay(reply: Reply, call: Call, seconds: float) -> None:
    """Wait between the headers and the first frame (or body byte)."""
    reply.first_delay = seconds


@_on_reply
def pace(reply: Reply, call: Call, ms: float) -> None:
    """Wait so many milliseconds between two frames."""
    reply.pace = ms / 1000


@_on_reply
def gap(reply: Reply, call: Call, k: int = 2, seconds: float = 60) -> None:
    """Silence of so many seconds after k frames, then go on."""
    reply.gap = (k, seconds)


@_on_reply
def hang(reply: Reply, call: Call) -> None:
    """Accept the request and never say a word."""
    reply.head, reply.ending = False, "hang"


@_on_reply
def hang_after(reply: Reply, call: Call, k: int = 2) -> None:
    """Fall silent for ever after k frames (or k bytes of a body)."""
    reply.cut, reply.ending = k, "hang"


@_on_reply
def drip(reply: Reply, call: Call, seconds: float = 0.5) -> None:
    """The body byte by byte, so long apart."""
    reply.drip = seconds


@_on_reply
def drip_headers(reply: Reply, call: Call, seconds: float = 0.5) -> None:
    """The status line and headers byte by byte, so long apart."""
    reply.drip_head = seconds


# --- broken connections -------------------------------------------------------------------------------------------


@_on_reply
def reset(reply: Reply, call: Call) -> None:
    """RST before the answer."""
    reply.head, reply.ending = False, "reset"


@_on_reply
def eof(reply: Reply, call: Call) -> None:
    """The connection ends, in order, before the answer."""
    reply.head, reply.ending = False, "eof"


@_on_reply
def reset_after(reply: Reply, call: Call, k: int = 2) -> None:
    """RST after k frames; a plain body breaks in its middle."""
    _break(reply, k, "reset")


@_on_reply
def eof_after(reply: Reply, call: Call, k: int = 2) -> None:
    """EOF after k frames, the chunked body unfinished; a plain body breaks in its middle."""
    _break(reply, k, "eof")


@_on_reply
def half_line(reply: Reply, call: Call, k: int = 2) -> None:
    """k frames and half a line of the next one, then EOF."""
    _break(reply, k, "eof")
    reply.half = True


@_on_reply
def chunk_garbage(reply: Reply, call: Call, k: int = 2) -> None:
    """After k frames something that is no chunk of a chunked body."""
    reply.frames = reply.frames if reply.frames is not None else [Frame(reply.body.decode())]
    reply.cut, reply.ending = k, "garbage"


@_on_reply
def stale(reply: Reply, call: Call, on_reuse: bool = False) -> None:
    """A good answer that promises keep-alive, then the connection is closed; on_reuse: reset when it is used again."""
    reply.ending = "stale_on_reuse" if on_reuse else "stale"


def _break(reply: Reply, k: int, ending: str) -> None:
    reply.cut = k if reply.frames is not None else len(reply.body) // 2
    reply.ending = ending


# --- bodies that are not what they should be ----------------------------------------------------------------------


@_on_reply
def raw(reply: Reply, call: Call, body: Any, content_type: str = "application/json", code: int = 200) -> None:
    """Exactly this body: bytes or a string as they are, anything else as JSON."""
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogateescape")
    _become_body(reply, body if isinstance(body, bytes) else json.dumps(body).encode(), content_type, code)


@_on_reply
def frames(reply: Reply, call: Call, data: list[Any]) -> None:
    """Exactly these SSE frames, in order: strings as they are, [event, data] pairs, anything else as JSON."""
    reply.frames = [Frame(one[1], one[0]) if isinstance(one, (list, tuple)) else Frame(one) for one in data]


@_on_reply
def on_the_wire(reply: Reply, call: Call, data: bytes) -> None:
    """Exactly these bytes on the socket, status line and all, then EOF: for framing that no server would send."""
    reply.wire, reply.ending = data, "eof"


@_on_reply
def gzipped(reply: Reply, call: Call, layers: int = 1, megabytes: float = 0) -> None:
    """The body gzipped so many times over; with megabytes, a bomb of so many of them instead of the body."""
    data = b" " * int(megabytes * 2**20) or reply.body
    for _ in range(layers):
        data = gzip.compress(data)
    reply.body, reply.frames = data, None
    reply.headers["content-encoding"] = ", ".join(["gzip"] * layers)


@_on_reply
def headers(reply: Reply, call: Call, more: dict[str, str]) -> None:
    """These headers too (or instead, by name in lower case)."""
    reply.headers.update(more)


@_on_reply
def plain_body(reply: Reply, call: Call) -> None:
    """A JSON body though a stream was asked for."""
    _become_json(reply, call.wire.plain(call.ask, call.answer))


@_on_reply
def html(reply: Reply, call: Call, code: int = 200) -> None:
    """A web page, as a proxy in the way would send."""
    reply.failed = True
    _become_body(reply, b"<!DOCTYPE html><html><body><h1>Bad gateway</h1></body></html>", "text/html", code)


@_on_reply
def dead_tunnel(reply: Reply, call: Call) -> None:
    """What ngrok says when nobody is at the other end."""
    _become_body(
        reply, b"<!DOCTYPE html><html><body>The endpoint is offline. ERR_NGROK_3200</body></html>", "text/html", 404
    )
    reply.headers["ngrok-error-code"] = "ERR_NGROK_3200"


@_on_reply
def half_json(reply: Reply, call: Call) -> None:
    """The first half of the body, with a fitting Content-Length; a stream gets a frame with half its JSON."""
    if reply.frames is None:
        reply.body = reply.body[: len(reply.body) // 2]
    else:
        _break_frame(reply, lambda data: data[: len(data) // 2])


@_on_reply
def not_json(reply: Reply, call: Call) -> None:
    """A body, or one frame, that is no JSON at all."""
    if reply.frames is None:
        reply.body = b"not json"
    else:
        _break_frame(reply, lambda data: "not json")


def _break_frame(reply: Reply, change: Callable[[str], str]) -> None:
    everything = reply.frames or []
    position = min(2, len(everything) - 1)
    broken = Frame(change(json.dumps(everything[position].data)), everything[position].event)
    reply.frames = [*everything[:position], broken, *everything[position + 1 :]]


@_on_reply
def invalid_utf8(reply: Reply, call: Call) -> None:
    """Bytes that are no UTF-8 inside the answer's text."""
    word = (call.answer.text.split() or ["{"])[0]
    if reply.frames is None:
        reply.body = reply.body.replace(word.encode(), word.encode() + b"\xff\xfe\xc3", 1)
    else:
        reply.frames = [
            Frame(json.dumps(one.data).replace(word, word + "\udcff\udcfe\udcc3", 1), one.event, one.tokens)
            for one in reply.frames
        ]


@_on_reply
def empty_body(reply: Reply, call: Call) -> None:
    """200 and nothing; a stream ends at once, in order."""
    reply.body, reply.frames = b"", None if reply.frames is None else []


@_on_reply
def null_body(reply: Reply, call: Call) -> None:
    """The body (or the only frame) is `null`."""
    reply.body, reply.frames = b"null", None if reply.frames is None else [Frame("null")]


@_on_reply
def no_choices(reply: Reply, call: Call) -> None:
    """A well-formed answer with an empty list where the answers should be."""
    _map_dicts(
        reply,
        lambda data: {
            key: [] if key in ("choices", "candidates", "content") and isinstance(value, list) else value
            for key, value in data.items()
        },
    )


@_on_reply
def fill(reply: Reply, call: Call, megabytes: float) -> None:
    """Let so many megabytes stand where the word FILLER is."""
    reply.filler = (FILLER, int(megabytes * 2**20))


def huge(megabytes: float = 100) -> Behaviour:
    """An answer text of so many megabytes, valid to the end."""
    return text(FILLER) + fill(megabytes)


# --- usage that cannot be right -----------------------------------------------------------------------------------


@_on_reply
def usage_missing(reply: Reply, call: Call) -> None:
    """No usage anywhere."""
    _map_dicts(reply, lambda data: {key: value for key, value in data.items() if key not in ("usage", "usageMetadata")})


@_on_reply
def usage_values(reply: Reply, call: Call, value: Any) -> None:
    """This value for every token count: "NaN" (the bare word), -5, 10**18, "12", null …"""
    _map_usage(reply, lambda count: float("nan") if value == "NaN" else value)


@_on_reply
def usage_strings(reply: Reply, call: Call) -> None:
    """The right counts, but as strings."""
    _map_usage(reply, str)


@_on_reply
def usage_twice(reply: Reply, call: Call) -> None:
    """A stream tells the usage twice: half of it first, the right one last."""
    everything = reply.frames or []
    last = next((index for index in reversed(range(len(everything))) if _has_usage(everything[index].data)), None)
    if last is not None:
        early = Reply(frames=[Frame(everything[last].data, everything[last].event)])
        _map_usage(early, lambda count: count // 2)
        reply.frames = [*everything[:last], *(early.frames or []), *everything[last:]]


def _has_usage(data: Any) -> bool:
    return isinstance(data, dict) and any(isinstance(data.get(key), dict) for key in ("usage", "usageMetadata"))


def _map_dicts(reply: Reply, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    if reply.frames is None:
        reply.body = json.dumps(_deep(json.loads(reply.body), change)).encode()
    else:
        reply.frames = [Frame(_deep(one.data, change), one.event, one.tokens) for one in reply.frames]


def _deep(data: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    if isinstance(data, list):
        return [_deep(one, change) for one in data]
    return change({key: _deep(value, change) for key, value in data.items()}) if isinstance(data, dict) else data


def _map_usage(reply: Reply, change: Callable[[int], Any]) -> None:
    def counts(data: Any) -> Any:
        if isinstance(data, dict):
            return {key: counts(value) for key, value in data.items()}
        return change(data) if isinstance(data, int) else data

    _map_dicts(
        reply,
        lambda data: {
            key: counts(value) if key in ("usage", "usageMetadata") else value for key, value in data.items()
        },
    )


# --- streams that are odd -----------------------------------------------------------------------------------------


@_on_reply
def line_ends(reply: Reply, call: Call, newline: str = "\r\n") -> None:
    """SSE lines end with CRLF, CR or LF."""
    reply.newline = newline


@_on_reply
def dressed(reply: Reply, call: Call, newline: str = "\r\n") -> None:
    """All that SSE allows: comments, ids, retry fields, event names, data over several lines, other line ends."""
    reply.dressed, reply.newline = True, newline


@_on_reply
def packets(reply: Reply, call: Call, size: int = 1) -> None:
    """Packets of so many bytes, through the middle of lines and of characters."""
    reply.packet = size


@_on_reply
def done_then_more(reply: Reply, call: Call) -> None:
    """After the end of the stream, more data."""
    late = [Frame({"late": "data after the end"}), Frame("[DONE]")]
    reply.frames = None if reply.frames is None else [*reply.frames, *reply.frames[1:3], *late]


@_on_reply
def ends_early(reply: Reply, call: Call, k: int = 2) -> None:
    """After k frames the body ends in order, but the vendor's end mark never came."""
    reply.frames = None if reply.frames is None else reply.frames[:k]


@_on_reply
def no_role(reply: Reply, call: Call) -> None:
    """The chunk with the role is missing (OpenAI's wire)."""
    if reply.frames is not None:
        reply.frames = [one for one in reply.frames if '"role"' not in json.dumps(one.data)]


@_on_reply
def two_choices(reply: Reply, call: Call) -> None:
    """A second choice, word by word between the first one's words (OpenAI's wire)."""
    if reply.frames is None:
        return
    doubled: list[Frame] = []
    for one in reply.frames:
        doubled.append(one)
        if isinstance(one.data, dict) and one.data.get("choices"):
            doubled.append(Frame({**one.data, "choices": [{**choice, "index": 1} for choice in one.data["choices"]]}))
    reply.frames = doubled


@_on_reply
def endless(reply: Reply, call: Call, count: int = 100_000) -> None:
    """The first word again and again, for as long as the peer listens."""
    everything = reply.frames or []
    if everything:
        word = max(range(len(everything)), key=lambda index: everything[index].tokens)
        reply.frames = [*everything[:word], *[everything[word]] * count, *everything[word:]]


# --- the corpus ---------------------------------------------------------------------------------------------------

CORPUS: dict[str, Behaviour] = {
    "accepts, never answers": hang(),
    "drips": drip(),
    "RST before the answer": reset(),
    "RST in the middle of a JSON body": reset_after(),
    "EOF in the middle of a JSON body": eof_after(),
    "200 with empty body": empty_body(),
    "200 with null": null_body(),
    "200 with HTML": html(),
    "200 with half JSON": half_json(),
    "200 with invalid UTF-8": invalid_utf8(),
    "200 with NaN in usage": usage_values("NaN"),
    "200 with no usage": usage_missing(),
    "200 with negative usage": usage_values(-5),
    "200 with usage 10^18 tokens": usage_values(10**18),
    "200 with string numbers in usage": usage_strings(),
    "200 with choices []": no_choices(),
    "200 with 100 MB content": huge(100),
    "200 with model name of another model": model_name(),
    "200 with error object inside": error_in_200(),
    "302 to another host": redirect("http://127.0.0.1:9/elsewhere"),
    "400 with provider text": status(400, message="max_tokens is too large: 999999. sk-sim-leak"),
    "400 echoing the key": echo_key(400),
    "401 (our key is bad)": status(401),
    "404 (model gone)": status(404),
    "429 with Retry-After": status(429, retry_after=1),
    "429 insufficient_quota": insufficient_quota(),
    "503 with Retry-After": status(503, retry_after=1),
    "500 on every provider": status(500),
    "half an SSE line, then EOF": half_line(),
    "data: {half json": half_json(),
    "data: not json": not_json(),
    "data lines with CRLF, CR, comments, event names, retry fields": dressed(),
    "multi-byte UTF-8 split over packets": text("Grüße 世界 🙂 ok") + packets(1),
    "no chunk for 60 s in the middle": gap(2, 60),
    "usage twice": usage_twice(),
    "finish_reason content_filter": finish("filter"),
    "two choices interleaved": two_choices(),
    "role chunk missing": no_role(),
    "[DONE] then more data": done_then_more(),
    "JSON body though a stream was asked": plain_body(),
    "failure after the first byte": reset_after(2),
    "Anthropic: ping, error overloaded_error, message_delta usage": error_mid_stream(3, 529),
    "Transfer-Encoding chunk garbage": chunk_garbage(),
    "upstream keeps sending after we closed": endless() + pace(1),
    **{str(code): status(code) for code in (402, 403, 408, 413, 422, 500, 503, 529)},
}
"""The `upstream` texts of groups upstream.sync and upstream.stream; those that need no answering socket at all are
`Upstream.endpoint` kinds instead (closed, silent, black_hole)."""
