"""The bill of the simulator against our ledger: what is asked, what goes wrong with it, and how the two are compared.

Prices are typed here, once for the gateway's catalogue and once as fractions for the reckoning, which shares no code
with `flaskllm.domain.pricing`. Each call has a mark that stands in its prompt and is its ``X-Request-Id``.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import groupby, zip_longest
from typing import Any

from tests.upstream import Behaviour, BillRow, faults

PRICES: dict[str, dict[str, str]] = {
    "openai": {"input": "2.5035", "cacheRead": "1.25015", "output": "10.0155", "reasoning": "12.3335"},
    "azure_openai": {"input": "2.75005", "cacheRead": "0.13755", "output": "11.1115"},
    "anthropic": {"input": "3.0005", "cacheRead": "0.30005", "cacheWrite5m": "3.75055", "output": "15.1235"},
    "gemini": {"input": "0.30015", "cacheRead": "0.07505", "output": "2.50035", "reasoning": "3.50705"},
    "grok": {"input": "5.00005", "cacheRead": "0.75015", "output": "15.0115", "reasoning": "14.9995"},
    "llama": {"input": "0.03335", "output": "0.06665"},
    "ngrok": {"input": "0.0001", "output": "0.0005"},
}
"""US dollars for a million tokens, with digits that make nearly every sum end in a fraction of our unit."""
EMBEDDING_PRICE, DRAWN_INPUT, DRAWN_OUTPUT, PICTURE = "0.02005", "5.0005", "40.0005", "0.0405"
OVERLAY = """
models:
  openai/bill-openai: {{provider: openai, model_name: gpt-4o, aliases: [pair-1, pair-4], prices: [{openai}]}}
  azure_openai/bill-azure: {{provider: azure_openai, model_name: gpt-4o, aliases: [pair-2], prices: [{azure_openai}]}}
  anthropic/bill-claude: {{provider: anthropic, model_name: claude-haiku-4-5, aliases: [pair-1, pair-3],
                           abilities: [tools, images], max_tokens: 4000, prices: [{anthropic}]}}
  gemini/bill-gemini: {{provider: gemini, model_name: gemini-2.5-flash, aliases: [pair-2, pair-3],
                        abilities: [tools, json_schema], prices: [{gemini}]}}
  grok/bill-grok: {{provider: grok, model_name: grok-3, aliases: [pair-4], prices: [{grok}]}}
  llama/bill-llama: {{provider: llama, model_name: llama-7b-instruct, aliases: [pair-3, pair-4], prices: [{llama}]}}
  ngrok/bill-ngrok: {{provider: ngrok, model_name: gemini-2.5-flash, prices: [{ngrok}]}}
  openai/bill-vectors: {{provider: openai, model_name: text-embedding-3-small, type: embedding,
                         prices: [{vectors}]}}
  openai/bill-drawn: {{provider: openai, model_name: gpt-image-1, type: image, prices: [{drawn}]}}
  openai/bill-picture: {{provider: openai, model_name: dall-e-3, type: image,
                         prices: [{{unitOfMeasure: 1000000, currency: USD,
                                    pixel: {{width: 1024, height: 1024, value: {picture}}}}}]}}
"""
ALONE = (
    "bill-openai", "bill-azure", "bill-claude", "bill-gemini", "bill-grok", "bill-llama", "bill-ngrok",
)  # fmt: skip
PAIRS = ("pair-1", "pair-2", "pair-3", "pair-4")
OWNERS = {"azure-east": "azure_openai", "azure-west": "azure_openai"}
"""The simulator's name of a vendor to ours, where they differ."""


def overlay() -> str:
    """The catalogue of the models above, with these prices."""
    rows = {
        "vectors": {"input": EMBEDDING_PRICE},
        "drawn": {"input": DRAWN_INPUT, "output": DRAWN_OUTPUT},
        **PRICES,
    }
    lists = {name: _price_list(rates) for name, rates in rows.items()}
    return OVERLAY.format(**lists, picture=PICTURE)


def _price_list(rates: dict[str, str]) -> str:
    values = ", ".join(f"{name}Value: {rate}" for name, rate in rates.items())
    return f"{{unitOfMeasure: 1000000, currency: USD, token: {{{values}}}}}"


# -- what is asked -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """One call: ``leave_after`` frames (or, in one piece, at once) it is hung up, ``abruptly`` with a RST."""

    mark: str
    path: str
    headers: dict[str, str]
    body: bytes
    steps: tuple[Behaviour, ...]
    stream: bool
    leave_after: int | None = None
    abruptly: bool = False

    def again(self) -> Planned:
        """The same under another mark, as a caller repeats it."""
        mark = self.mark.replace("mark-", "mark-again-")
        return replace(self, mark=mark, body=self.body.replace(self.mark.encode(), mark.encode()))

    def request(self, token: str) -> bytes:
        carrier = {"x-api-key": token} if self.path == "/v1/messages" else {"Authorization": f"Bearer {token}"}
        headers = {
            "Host": "x", "Content-Type": "application/json", "Connection": "close", "X-Request-Id": self.mark,
            "Content-Length": str(len(self.body)), **carrier, **self.headers,
        }  # fmt: skip
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {self.path} HTTP/1.1\r\n{head}\r\n".encode() + self.body


WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "then", "it", "sleeps")
GATE = {"X-Correlation-Id": "7b1f3c2e-5d4a-4f6b-8c9d-0e1f2a3b4c5d", "X-User-Id": "ana", "client_id": "c1"}
DOORS = ("chat", "chat", "chat", "messages", "messages", "responses", "conversation", "webhook", "gate", "azure")
STREAMED = frozenset({"chat", "messages", "responses", "conversation"})
REFUSALS: tuple[Behaviour, ...] = (
    faults.status(500),
    faults.status(503),
    faults.status(529),
    faults.status(408),
    faults.status(429, retry_after="200ms"),
    faults.status(429, retry_after=30),
    faults.status(400),
    faults.reset(),
    faults.eof(),
    faults.content_filter(),
)
"""Nothing is generated."""
BREAKS: tuple[Behaviour, ...] = (
    faults.reset_after(),
    faults.eof_after(),
    faults.half_line(),
    faults.half_json(),
    faults.not_json(),
    faults.empty_body(),
    faults.null_body(),
    faults.html(),
    faults.error_in_200(),
    faults.error_mid_stream(),
    faults.error_mid_stream(3, 500),
    faults.ends_early(),
    faults.chunk_garbage(),
    faults.no_choices(),
)
"""An answer that is none, or the beginning of one."""
NONSENSE: tuple[Behaviour, ...] = (
    faults.usage_missing(),
    faults.usage_values("NaN"),
    faults.usage_values(-5),
    faults.usage_values(10**18),
    faults.usage_values(None),
)
GARBLED = {"half_json", "not_json"}
"""After these an answer is given up on, and what it told of its usage is not read."""
ODDITIES: tuple[Behaviour, ...] = (
    faults.usage_twice(),
    faults.usage_strings(),
    faults.done_then_more(),
    faults.plain_body(),
    faults.dressed(),
    faults.line_ends("\r\n"),
    faults.stale(),
    faults.model_name(),
    faults.invalid_utf8(),
    faults.gap(2, 0.3),
    faults.delay(0.2),
)
"""Good answers, told strangely."""


class Planner:
    """Draws calls; the same ``seed`` draws the same."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)

    def calls(self, count: int) -> list[Planned]:
        return [self._call(f"mark-{number:06d}") for number in range(count)]

    def _call(self, mark: str) -> Planned:
        if self._dice.random() < 0.08:
            return self._media(mark)
        door = self._dice.choice(DOORS)
        model = self._dice.choice(PAIRS if self._dice.random() < 0.4 else ALONE)
        stream = door in STREAMED and self._dice.random() < 0.6
        words = f"{' '.join(self._dice.choices(WORDS, k=self._dice.randint(3, 25)))} {mark}"
        path, body, headers = _asked(door, model, words, stream=stream)
        steps = tuple(self._step() for _ in range(self._dice.choice((0, 1, 1, 1, 2, 2, 3))))
        return self._planned(mark, path, headers, body, steps, stream=stream)

    def _media(self, mark: str) -> Planned:
        words = " ".join(self._dice.choices(WORDS, k=8)) + f" {mark}"
        model = self._dice.choice(("bill-vectors", "bill-drawn", "bill-picture"))
        if model == "bill-vectors":
            path, body = "/v1/embeddings", {"model": model, "input": words}
        else:
            path, body = "/v1/images/generations", {"model": model, "prompt": words, "size": "1024x1024"}
        steps = (
            self._dice.choice((faults.status(500), faults.half_json(), faults.usage_missing(), faults.delay(0.1))),
        )
        return self._planned(mark, path, {}, body, steps[: self._dice.randint(0, 1)], stream=False)

    def _planned(
        self, mark: str, path: str, headers: dict[str, str], body: Any, steps: tuple[Behaviour, ...], *, stream: bool
    ) -> Planned:
        leaves = self._dice.random() < 0.3
        headers = {**headers, **({"Idempotency-Key": mark} if self._dice.random() < 0.1 else {})}
        return Planned(
            mark, path, headers, json.dumps(body).encode(), steps, stream,
            leave_after=self._dice.randint(0, 20) if leaves else None,
            abruptly=self._dice.random() < 0.5,
        )  # fmt: skip

    def _step(self) -> Behaviour:
        """What one attempt meets."""
        made = faults.pace(self._dice.choice((0, 0, 5, 20)))
        if self._dice.random() < 0.6:
            cached, written, thought = (self._dice.choice((0, 0, self._dice.randint(1, 5000))) for _ in range(3))
            made = made + faults.usage(
                input=self._dice.randint(1, 9000), output=self._dice.randint(1, 4000), cached=cached,
                cache_write=written, reasoning=thought,
            )  # fmt: skip
        kinds = (None, REFUSALS, BREAKS, NONSENSE, ODDITIES)
        kind = self._dice.choices(kinds, (45, 20, 12, 8, 15))[0]
        return made if kind is None else made + self._dice.choice(kind)


def _asked(door: str, model: str, words: str, *, stream: bool) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Path, body and headers of one question at one door."""
    said = [{"role": "user", "content": words}]
    if door == "messages":
        return "/v1/messages", {"model": model, "max_tokens": 400, "messages": said, "stream": stream}, {}
    if door == "responses":
        return "/v1/responses", {"model": model, "input": words, "stream": stream, "store": False}, {}
    if door == "conversation":
        return "/llm/chat", {"model": model, "message": words, "stream": stream}, {}
    if door == "webhook":
        return "/api/v1/webhook", {"model": model, "prompt": words, "type": "summary"}, {}
    if door == "gate":
        return "/llm-gate/v1/chat", {"provider": {"model": {"name": model}}, "prompt": {"messages": said}}, GATE
    if door == "azure":
        path = f"/openai/deployments/{model}/chat/completions?api-version=2024-10-21"
        return path, {"messages": said, "stream": stream}, {}
    return "/v1/chat/completions", {"model": model, "messages": said, "stream": stream}, {}


# -- what it costs -----------------------------------------------------------------------------------------------------


def owner_of(row: BillRow) -> str:
    return OWNERS.get(row.vendor, row.vendor)


def charged(row: BillRow) -> dict[str, int]:
    """The vendor's buckets as its wire tells them apart: what it does not tell is part of the one it is told in."""
    if row.vendor == "anthropic":
        return {
            "input": row.input, "cacheRead": row.cached, "cacheWrite5m": row.cache_write,
            "output": row.output + row.reasoning,
        }  # fmt: skip
    return {
        "input": row.input + row.cache_write, "cacheRead": row.cached, "output": row.output, "reasoning": row.reasoning
    }  # fmt: skip


def price_of(row: BillRow) -> int:
    """What the vendor asks for this call, in 10⁻⁹ dollar, half up."""
    if row.status != 200 or not (row.input or row.output):
        return 0
    if row.model == "dall-e-3":
        return int(Fraction(PICTURE) * 10**9)
    rates = PRICES[owner_of(row)]
    if row.route == "embeddings":
        rates = {"input": EMBEDDING_PRICE}
    elif row.model == "gpt-image-1":
        rates = {"input": DRAWN_INPUT, "output": DRAWN_OUTPUT}
    total = sum(tokens * Fraction(_rate(bucket, rates)) for bucket, tokens in charged(row).items()) * 1000
    return int(total + Fraction(1, 2))


def _rate(bucket: str, rates: dict[str, str]) -> str:
    """A bucket without a price of its own costs what the one costs that it is part of."""
    whole = "output" if bucket == "reasoning" else "input"
    return rates.get(bucket) or rates.get(whole) or "0"


def is_reported(row: BillRow) -> bool:
    """Whether the vendor told all that it charges, and told it to the last token."""
    if row.model == "dall-e-3":
        return row.status == 200 and row.complete
    told = _told(row)
    if told is None:
        return False
    prompt, completion = row.input + row.cached + row.cache_write, row.output + row.reasoning
    return told == (prompt, completion)


def _told(row: BillRow) -> tuple[int, int] | None:
    """Prompt and completion tokens as its usage object has them."""
    raw = row.reported
    if raw is None:
        return None
    if row.vendor == "anthropic":
        names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        return _sum(raw, names, ("output_tokens",))
    if row.vendor == "gemini":
        return _sum(raw, ("promptTokenCount",), ("candidatesTokenCount", "thoughtsTokenCount"))
    if row.route == "images":
        return _sum(raw, ("input_tokens",), ("output_tokens",))
    told = _sum(raw, ("prompt_tokens",), ("completion_tokens",))
    if told is None or row.vendor != "grok":
        return told
    thought = _whole((raw.get("completion_tokens_details") or {}).get("reasoning_tokens"))
    return None if thought is None else (told[0], told[1] + thought)


def _sum(raw: dict[str, Any], prompt: Iterable[str], completion: Iterable[str]) -> tuple[int, int] | None:
    sums = [[_whole(raw[name]) for name in names if name in raw] for names in (prompt, completion)]
    if any(one is None for ones in sums for one in ones):
        return None
    return sum(one or 0 for one in sums[0]), sum(one or 0 for one in sums[1])


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return value if is_count else None


# -- the comparison ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One attempt of the ledger."""

    request_id: str
    provider: str
    state: str
    cost: int | None
    estimated: bool
    completion_tokens: int
    error_code: str | None

    @property
    def is_marked(self) -> bool:
        return self.estimated or self.state == "interrupted"


@dataclass
class Reckoning:
    """The two books side by side. ``faults``: what must not be; ``counts``: what was seen."""

    plans: dict[str, tuple[Behaviour, ...]]
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    difference: int = 0

    def compare(self, bill: Sequence[BillRow], ledger: Sequence[Entry]) -> None:
        """``ledger`` in the order of its ids; each upstream call has to have an entry of its own."""
        entries: dict[str, list[Entry]] = defaultdict(list)
        for entry in ledger:
            entries[entry.request_id].append(entry)
        in_order = sorted(bill, key=lambda row: (row.mark, row.began))
        for mark, rows in groupby(in_order, key=lambda row: row.mark):
            left = entries.pop(mark, [])
            steps = [{name for name, _ in step.steps} for step in self.plans.get(mark, ())]
            for row, met in zip_longest(list(rows), steps):
                if row is not None:
                    self._match(row, left, met or set())
            for entry in left:
                self._never_sent(entry)
        for entry in (one for ones in entries.values() for one in ones):
            self._never_sent(entry)

    def _match(self, row: BillRow, left: list[Entry], met: set[str]) -> None:
        """An entry that was never sent (its process died before it) may stand before the one that was."""
        self.counts["upstream calls"] += 1
        entry = next((one for one in left if one.provider == owner_of(row) and _fits(one, row)), None)
        entry = entry or next((one for one in left if one.provider == owner_of(row)), None)
        if entry is None:
            self.faults.append(f"no entry: {row}")
            return
        left.remove(entry)
        before = len(self.faults)
        self._weigh(row, entry, garbled=bool(met & GARBLED))
        self.faults[before:] = [f"{one} after {sorted(met)}" for one in self.faults[before:]]

    def _weigh(self, row: BillRow, entry: Entry, *, garbled: bool) -> None:
        reported, price = is_reported(row), price_of(row)
        if entry.state == "reserved" or (entry.cost is None):
            self.faults.append(f"open or without a cost: {entry} {row}")
        elif not entry.is_marked:
            self.counts["reported, equal" if price else "nothing generated"] += 1
            self.difference += entry.cost - price
            if entry.cost != price:
                self.faults.append(f"{entry.cost} in the ledger, {price} on the bill: {entry} {row}")
        elif entry.state == "interrupted":
            self.counts["marked: killed"] += 1
        elif entry.error_code == "provider_timeout":
            self.counts["marked: timed out"] += 1
        elif entry.cost == price:
            self.counts["marked, equal"] += 1
        elif not reported:
            self.counts["marked: not reported"] += 1
        elif garbled:
            self.counts["marked: given up on"] += 1
        else:
            self.faults.append(f"reported and yet marked: {entry} {row}")
        if row.generated and entry.state == "settled" and row.complete and not entry.completion_tokens:
            self.faults.append(f"words for nothing: {entry} {row}")

    def _never_sent(self, entry: Entry) -> None:
        """No byte of it arrived; unmarked it must have cost nothing."""
        self.counts[f"never arrived: {entry.state}"] += 1
        if entry.state == "reserved" or (not entry.is_marked and entry.cost):
            self.faults.append(f"nothing arrived, and yet: {entry}")


def _fits(entry: Entry, row: BillRow) -> bool:
    return entry.cost == price_of(row) and entry.state != "interrupted"
