"""The port of the exits: how any vendor is spoken to.

An adapter is transport and translation together, one for each provider row, shared by threads: what it holds after
``__init__`` is read-only. It describes itself (`ABILITIES`, `CONNECTION`, `PARAMS`), so that routing, checking,
masking, forms and refusals by name need no code of their own. An adapter that cannot take an image address says so by
leaving ``image_url`` out of its abilities, one that takes https alone by leaving ``image_http`` out, and gets the image
inlined.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, TypeVar

import orjson

from flaskllm.adapters.answers import frames_of
from flaskllm.adapters.errors import failure_for, failure_in_body
from flaskllm.adapters.http import MEDIA_CAP, Exchange, Response, Transport
from flaskllm.adapters.sse import Event, SseParser
from flaskllm.domain.catalogue import Candidate, Provider
from flaskllm.domain.chat import ChatRequest, ChatResult, Chunk, output_chars
from flaskllm.domain.embedding import EmbedRequest, EmbedResult
from flaskllm.domain.image import ImageRequest, ImageResult
from flaskllm.domain.usage import Usage
from flaskllm.errors import ProviderError, ProviderFailure, invalid


@dataclass(frozen=True, slots=True)
class Field:
    """One thing an administrator may set in ``connection_params``."""

    name: str
    type: type = str
    default: Any = None
    required: bool = False
    secret: bool = False
    help: str = ""


TIMES = (
    Field("timeout_s", float, help="Seconds one call may take, up to 600, in the place of REQUEST_TIMEOUT."),
    Field("timeouts", dict, help="Seconds, each up to 600: connect_s, first_byte_s, idle_s, total_s."),
)
COMMON_CONNECTION = (Field("api_base", help="Address of the service; empty means the vendor's own."), *TIMES)


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model as its provider lists it. ``type``: one of ``MODEL_TYPES``, guessed from what is told and from the name;
    None for what is neither chat, vectors nor images."""

    name: str
    type: str | None
    context_window: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of one parameter: its name there, how its value is turned, which bounds it is clamped to."""

    target: str
    convert: Callable[[Any], Any] | None = None
    clamp: tuple[float, float] | None = None


PassAll = None
"""For `PARAMS`: every parameter goes on under its own name."""
Table = Mapping[str, str | Rule | None] | None
AnyRequest = ChatRequest | EmbedRequest | ImageRequest
Read = TypeVar("Read")
NOTHING_ASKED = ChatRequest(model=None, messages=[])
"""For headers of calls that are no chat."""

NONSENSE = (AttributeError, KeyError, IndexError, TypeError, ValueError)
"""What an answer of another shape than its wire's comes to when it is read."""
GATEWAY_ONLY = frozenset({"drop_params"})
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True,),
    "presence_penalty": (0,),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "temperature": (1,),
    "tools": ([],),
    "top_logprobs": (0,),
    "top_p": (1,),
}
"""Values that ask for what happens anyway: where a vendor does not know the parameter, they need no refusal."""


@dataclass(slots=True)
class Mapped:
    """Parameters in the vendor's words, and the names of those that were left out or clamped."""

    params: dict[str, Any]
    dropped: list[str] = field(default_factory=list)


class ChunkSource(Protocol):
    """One streamed answer on its way in: read by one thread, polled by `ChatStream`."""

    dropped: Sequence[str]
    upstream_id: str | None

    def fileno(self) -> int | None:
        """The socket's descriptor to poll; None where reading never waits (`demo`)."""

    def ready(self) -> bool:
        """Whether `read` would not wait."""

    def read(self, deadline: float) -> list[Chunk] | None:
        """What is there, decoded; maybe nothing; None at the regular end. Raises a `ProviderFailure`."""

    def close(self) -> None:
        """Give the connection back, or drop it. May be called twice."""


class Decoder(Protocol):
    """Turns one vendor's events into OpenAI's chunks; lives as long as its stream."""

    def decode(self, event: Event) -> list[Chunk]:
        """Raises `ProviderFailure` where the event is an error or nonsense."""

    def at_end(self) -> list[Chunk]:
        """The body has ended without an end mark: the last frames, or `ProviderError` where it was cut."""

    @property
    def ended(self) -> bool:
        """Whether the vendor's own end mark has come."""


class ProviderAdapter(ABC):
    """Speaks to one provider. Subclasses give `encode`, `decode`, `decoder`, `headers` and `url`."""

    kind: ClassVar[str]
    TITLE: ClassVar[str] = ""
    """What people call a service of this kind; empty: as the kind itself."""
    wire: ClassVar[str] = ""
    """Fields that nobody knows are passed on where the caller speaks the same wire: ``"openai"``, ``"anthropic"`` …"""
    FOREIGN: ClassVar[frozenset[str]] = frozenset()
    """Fields of other wires that servers of this one take under the same name."""
    ABILITIES: ClassVar[frozenset[str]] = frozenset({"chat", "stream", "tools", "json_schema", "images", "image_url"})
    CONNECTION: ClassVar[tuple[Field, ...]] = COMMON_CONNECTION
    PARAMS: ClassVar[Mapping[str, str | Rule | None] | None] = PassAll
    DEFAULT_BASE: ClassVar[str] = ""
    KEY_REQUIRED: ClassVar[bool] = True
    KEY_FAULT: ClassVar[re.Pattern[str] | None] = None
    """How messages of the vendor begin that tell faults of our own key or account by a 400."""

    def __init__(self, provider: Provider, transport: Transport) -> None:
        self.provider = provider
        self.transport = transport

    # -- what a vendor's adapter says ------------------------------------------------------------------------------

    @abstractmethod
    def url(self, candidate: Candidate, *, stream: bool) -> str:
        """Where the call goes."""

    @abstractmethod
    def headers(self, candidate: Candidate, request: ChatRequest) -> dict[str, str]:
        """The credential and what else the vendor asks for; never anything of the caller's."""

    @abstractmethod
    def encode(self, request: ChatRequest, candidate: Candidate, mapped: Mapped) -> dict[str, Any]:
        """The vendor's request body. Raises `InvalidRequest` for what cannot be said in its words."""

    @abstractmethod
    def decode(self, body: dict[str, Any], raw: bytes, request: ChatRequest, candidate: Candidate) -> ChatResult:
        """The vendor's answer as OpenAI's. Raises `ProviderError` for nonsense."""

    @abstractmethod
    def decoder(self, request: ChatRequest, candidate: Candidate) -> Decoder:
        """A fresh decoder for one stream."""

    # -- what some can do besides ----------------------------------------------------------------------------------

    def embed(self, request: EmbedRequest, candidate: Candidate, deadline: float) -> EmbedResult:
        """One vector for each input, until ``deadline`` (monotonic seconds).

        Raises a `ProviderFailure`, and `InvalidRequest` where the vendor makes none.
        """
        raise invalid("model", f"{candidate.name} makes no embeddings")

    def create_images(self, request: ImageRequest, candidate: Candidate, deadline: float) -> ImageResult:
        """Images, until ``deadline``. Raises a `ProviderFailure`, and `InvalidRequest` where the vendor draws none."""
        raise invalid("model", f"{candidate.name} makes no images")

    def listed_models(self, candidate: Candidate, deadline: float) -> list[ListedModel]:
        """What the provider says it has, until ``deadline``; of the candidate only address and key count.

        Raises a `ProviderFailure`, and `InvalidRequest` where this wire has no list.
        """
        raise invalid("provider_type", f"a provider of type {self.kind} is not asked for a list of models")

    # -- what they all do ------------------------------------------------------------------------------------------

    def chat(self, request: ChatRequest, candidate: Candidate, deadline: float) -> ChatResult:
        """Ask and wait for the whole answer, until ``deadline`` (monotonic seconds). Raises a `ProviderFailure`."""
        mapped = self.map_params(request, candidate)
        response = self._begin(request, candidate, mapped, deadline, stream=False).response(deadline)
        self.check(response, candidate)
        result = self._whole(response.read(), request, candidate)
        dropped = [*mapped.dropped, *result.dropped]
        return replace(result, dropped=dropped, upstream_id=upstream_id(response.headers))

    def count_tokens(self, request: ChatRequest, candidate: Candidate, deadline: float) -> int | None:
        """The vendor's own count of a prompt's tokens; None where it cannot be asked.

        Raises a `ProviderFailure`, and `InvalidRequest` for what the vendor does not know.
        """
        self.map_params(request, candidate)
        return None

    def stream(self, request: ChatRequest, candidate: Candidate, deadline: float) -> ChunkSource:
        """Send the question; the answer's headers and its frames are read from what comes back."""
        mapped = self.map_params(request, candidate)
        exchange = self._begin(request, candidate, mapped, deadline, stream=True)
        return SseSource(
            exchange,
            self.decoder(request, candidate),
            dropped=mapped.dropped,
            check=lambda response: self.check(response, candidate),
            whole=lambda raw: self._whole(raw, request, candidate),
        )

    def check(self, response: Response, candidate: Candidate) -> None:
        """Raises what an answer's status and type mean, before its body is read as the vendor's."""
        if response.status != 200:
            raise failure_for(response, self._secrets(candidate), self.KEY_FAULT)
        if response.content_type == "text/html":
            response.close()
            raise ProviderError("The provider answered with a web page instead of JSON.", may_be_billed=False)

    def _whole(self, raw: bytes, request: ChatRequest, candidate: Candidate) -> ChatResult:
        """An answer in one piece. One that cannot be used is a failure that says how much of it came."""
        length = len(raw)
        body: dict[str, Any] = {}
        try:
            body, raw = parse_object(raw)
            if failure := failure_in_body(body, self._secrets(candidate)):
                raise failure
            result = self.decode(body, raw, request, candidate)
            output_chars(result.body)
        except ProviderFailure as failure:
            failure.received, failure.taken = length, self._sense_of_usage(body)
            raise
        except NONSENSE:
            nonsense = ProviderError("The provider's answer has the wrong shape.", may_be_billed=True)
            nonsense.received, nonsense.taken = length, self._sense_of_usage(body)
            raise nonsense from None
        return result

    def _sense_of_usage(self, body: Mapping[str, Any]) -> Usage | None:
        try:
            return self.usage_told(body)
        except NONSENSE:
            return None

    def usage_told(self, body: Mapping[str, Any]) -> Usage | None:
        """What an answer in one piece says that it took, usable or not; None where it says nothing."""
        return None

    def _exchanged(self, url: str, body: Any, candidate: Candidate, deadline: float, read: Callable[..., Read]) -> Read:
        """Send a body and read what comes back: a JSON object, as large as images and vectors may be.

        An answer that cannot be used says how much of it came.
        """
        response = self._send(url, body, NOTHING_ASKED, candidate, deadline).response(deadline)
        self.check(response, candidate)
        raw = response.read(MEDIA_CAP)
        try:
            found, _ = parse_object(raw)
            if failure := failure_in_body(found, self._secrets(candidate)):
                raise failure
            return read(found)
        except ProviderFailure as failure:
            failure.received = len(raw)
            raise
        except NONSENSE:
            nonsense = ProviderError("The provider's answer has the wrong shape.", may_be_billed=True)
            nonsense.received = len(raw)
            raise nonsense from None

    def _begin(
        self, request: ChatRequest, candidate: Candidate, mapped: Mapped, deadline: float, *, stream: bool
    ) -> Exchange:
        body = self.encode(request, candidate, mapped)
        return self._send(self.url(candidate, stream=stream), body, request, candidate, deadline, stream=stream)

    def _send(
        self, url: str, body: Any, request: ChatRequest, candidate: Candidate, deadline: float, *, stream: bool = False
    ) -> Exchange:
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if stream else "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "FlaskLLM",
            **self.headers(candidate, request),
        }
        return self.transport.begin("POST", url, headers=headers, body=orjson.dumps(body), deadline=deadline)

    def _secrets(self, candidate: Candidate) -> tuple[str, ...]:
        return (candidate.key.value,) if candidate.key else ()

    def map_params(self, request: ChatRequest, candidate: Candidate) -> Mapped:
        """The parameters in the vendor's words.

        What it does not know is refused by name, or left out and named where the caller asked (``drop_params``).
        """
        return self._mapped(request, candidate, self.PARAMS)

    def _mapped(self, request: AnyRequest, candidate: Candidate, table: Table) -> Mapped:
        """The same by a table of another kind of call."""
        if request.native and request.native.only and not self.goes_as_it_came(request):
            raise invalid(request.native.only[0], f"is not known to {candidate.name}")
        mapped = Mapped({})
        params, own = dict(request.params), candidate.model.params
        for name, value in params.items():
            if name in GATEWAY_ONLY:
                continue
            rule = _rule(name, own, table)
            if rule is None:
                if value in NEUTRAL.get(name, ()):
                    continue
                if own.get(name) != "drop" and not request.drop_params and name not in request.hints:
                    raise invalid(name, f"is not supported by {candidate.name}; leave it out or send drop_params: true")
                mapped.dropped.append(name)
            else:
                self._apply(mapped, name, rule, value)
        self._pass_extras(mapped, request, candidate, table)
        return mapped

    def goes_as_it_came(self, request: AnyRequest) -> bool:
        """Whether the question is in this wire already and may be sent on so."""
        native = request.native
        return native is not None and native.wire == self.wire and native.body is not None

    def _apply(self, mapped: Mapped, name: str, rule: Rule, value: Any) -> None:
        if rule.clamp and isinstance(value, int | float):
            low, high = rule.clamp
            if not low <= value <= high:
                value = min(max(value, low), high)
                mapped.dropped.append(name)
        mapped.params[rule.target] = rule.convert(value) if rule.convert else value

    def _pass_extras(self, mapped: Mapped, request: AnyRequest, candidate: Candidate, table: Table) -> None:
        for name, value in request.extras.items():
            rule = self._rule_of_extra(name, request, candidate, table)
            if rule is not None:
                self._apply(mapped, name, rule, value)
            elif request.drop_params or name in request.hints:
                mapped.dropped.append(name)
            else:
                raise invalid(name, f"is not known to {candidate.name}")

    def _rule_of_extra(self, name: str, request: AnyRequest, candidate: Candidate, table: Table) -> Rule | None:
        own = candidate.model.params
        rule = _rule(name, own, table)
        if request.wire == self.wire:
            return rule or (None if own.get(name) in ("drop", "refuse") else Rule(name))
        is_told = table is not PassAll or name in own or name in self.FOREIGN
        return rule if is_told else None


def _rule(name: str, own: Mapping[str, str], table: Table) -> Rule | None:
    """What becomes of a parameter: by the model's own word, else by the table of its vendor."""
    special = own.get(name)
    if special in ("drop", "refuse"):
        return None
    if special or table is PassAll:
        return Rule(special or name)
    rule = table.get(name)
    return Rule(rule) if isinstance(rule, str) else rule


class SseSource:
    """A `ChunkSource` over an HTTP answer of server-sent events, from before its headers on.

    ``check``: raises what status and type of the answer mean. ``whole``: reads an answer that came in one piece.
    """

    def __init__(
        self,
        exchange: Exchange,
        decoder: Decoder,
        *,
        dropped: Iterable[str],
        check: Callable[[Response], None],
        whole: Callable[[bytes], ChatResult],
    ) -> None:
        self._exchange = exchange
        self._response: Response | None = None
        self._decoder = decoder
        self._check = check
        self._whole = whole
        self._parser = SseParser()
        self._failure: ProviderFailure | None = None
        self._body_is_over = self._over = self._closed = False
        self.dropped: Sequence[str] = list(dropped)
        self.upstream_id: str | None = None

    def fileno(self) -> int | None:
        return self._exchange.fileno()

    def ready(self) -> bool:
        if self._closed or self._over or self._body_is_over or self._failure is not None:
            return True
        return (self._response or self._exchange).has_buffered()

    def read(self, deadline: float) -> list[Chunk] | None:
        if self._closed or self._over:
            return None
        try:
            return self._read(deadline)
        except BaseException:
            self.close()
            raise

    def _read(self, deadline: float) -> list[Chunk]:
        if self._failure is not None:
            raise self._failure
        if self._response is None:
            return self._take_headers(deadline)
        if self._body_is_over:
            self._over = True
            return self._decoder.at_end()
        self._response.set_deadline(deadline)
        piece = self._response.next_piece()
        return self._at_end() if piece is None else self._decode(self._parser.feed(piece))

    def _take_headers(self, deadline: float) -> list[Chunk]:
        response = self._exchange.response(deadline)
        self._response = response
        self.upstream_id = upstream_id(response.headers)
        self._check(response)
        return self._take_whole(response.read()) if response.content_type == "application/json" else []

    def _take_whole(self, raw: bytes) -> list[Chunk]:
        """An answer in one piece, since some servers cannot stream; or frames that were given a wrong name."""
        if raw.lstrip()[:1] in (b"{", b"["):
            self._over = True
            return list(frames_of(self._whole(raw)))
        return self._decode(self._parser.feed(raw)) + self._at_end()

    def _decode(self, events: Iterable[Event]) -> list[Chunk]:
        """The frames of these events. What came before a bad one is still handed on, and the failure raised next."""
        chunks: list[Chunk] = []
        for event in events:
            try:
                chunks += [] if self._over else self._decoder.decode(event)
            except ProviderFailure as failure:
                self._failure = failure
                break
            except NONSENSE:
                self._failure = ProviderError("The provider sent a frame of the wrong shape.", may_be_billed=True)
                break
            self._over = self._over or self._decoder.ended
        if self._failure is not None and not chunks:
            raise self._failure
        return chunks

    def _at_end(self) -> list[Chunk]:
        if self._over or self._failure is not None:
            return []
        chunks = self._decode(self._parser.flush())
        self._body_is_over = True
        return chunks

    def close(self) -> None:
        """After the vendor's end mark the end of the body is waited for a moment: all text has been handed on."""
        if self._closed:
            return
        self._closed = True
        if self._response is not None and (self._over or self._body_is_over) and self._failure is None:
            self._response.finish()
        else:
            (self._response or self._exchange).close()


def parse_object(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """A JSON object of a provider's, and bytes of it that are valid JSON. Raises `ProviderError` for anything else."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = _parse_leniently(raw)
        raw = orjson.dumps(body)
    if not isinstance(body, dict):
        raise ProviderError("The provider answered something that is not a JSON object.", may_be_billed=True)
    return body, raw


def _parse_leniently(raw: bytes) -> Any:
    """Python's reader takes ``NaN``, which some servers write into their usage; the number is judged later."""
    try:
        return json.loads(raw, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def broken_off() -> ProviderError:
    return ProviderError("The provider's stream broke off before its end.", may_be_billed=True)


def upstream_id(headers: Mapping[str, str]) -> str | None:
    """The provider's own id of the call, bounded, for our log."""
    for name in ("x-request-id", "request-id", "apim-request-id"):
        if value := headers.get(name):
            return value[:128]
    return None


def versioned(base: str, version: str = "v1") -> str:
    """An address without a version segment gets one: ``http://host`` → ``http://host/v1``."""
    base = base.rstrip("/")
    path = base.partition("://")[2].partition("/")[2]
    has_version = any(part[:1] == "v" and part[1:2].isdigit() for part in path.split("/"))
    return base if has_version else f"{base}/{version}"
