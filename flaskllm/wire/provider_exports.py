"""Providers' own exports of usage and cost, as their pages and administration interfaces give them.

Read are, in the columns and fields that are documented:

- OpenAI's usage and costs interfaces, ``GET /v1/organization/usage/completions`` (and ``/embeddings``) with
  ``group_by=model``, and ``/v1/organization/costs``, alone or with ``group_by=line_item``
  (developers.openai.com/api/docs/api-reference/usage), and the CSV of the usage page, whose columns are those fields.
- Anthropic's usage and cost reports, ``GET /v1/organizations/usage_report/messages`` with ``group_by[]=model`` and
  ``/v1/organizations/cost_report`` with ``group_by[]=description``, whose amounts are cents
  (platform.claude.com/docs/en/api/admin/usage_report, …/cost_report), and the CSV of the console's usage and cost pages
  (support.anthropic.com, "Cost and Usage Reporting in Console"), whose ``cost_usd`` is dollars.

Their days are UTC's. What cannot be read is refused with file, line and column (in JSON: with its path).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from flaskllm.domain.pricing import NANO
from flaskllm.domain.reconciliation import Billed, Export
from flaskllm.errors import InvalidRequest

DAY_S = 86_400
MOST_COUNT = 2**63 - 1
MOST_DOLLARS = 10**9
Row = Mapping[str, Any]

OPENAI_TIMES = ("start_time", "end_time", "start_time_iso", "end_time_iso")
OPENAI_WHO = (
    "user_id", "api_key_id", "project_id", "organization_id", "project_name", "organization_name", "user_email",
    "user_name", "api_key_name", "api_key_redacted", "api_source",
)  # fmt: skip
OPENAI_COUNTS = (
    "input_tokens", "output_tokens", "input_cached_tokens", "input_uncached_tokens", "input_cache_write_tokens",
    "input_text_tokens", "output_text_tokens", "input_cached_text_tokens", "input_audio_tokens", "output_audio_tokens",
    "input_cached_audio_tokens", "input_image_tokens", "output_image_tokens", "input_cached_image_tokens",
    "num_model_requests",
)  # fmt: skip
ANTHROPIC_USAGE = (
    "usage_input_tokens_no_cache", "usage_input_tokens_cache_write_5m", "usage_input_tokens_cache_write_1h",
    "usage_input_tokens_cache_read", "usage_output_tokens",
)  # fmt: skip
ANTHROPIC_WHAT = (
    "usage_date_utc", "api_key", "api_key_id", "api_key_status", "workspace", "usage_type", "context_window",
    "inference_geo", "speed", "service_tier",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a file, for what is said of it."""

    file: str
    place: str = ""

    def column(self, name: str) -> Where:
        return Where(self.file, f"{self.place}, column {name}" if self.place.startswith("line") else self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.place}.{name}" if self.place else name

    def fault(self, message: str) -> InvalidRequest:
        return InvalidRequest(": ".join((", ".join(part for part in (self.file, self.place) if part), message)))


@dataclass(frozen=True, slots=True)
class Table:
    """A kind of CSV: the columns by which it is known, those that it may have besides, and how a row is read."""

    vendor: str
    needs: tuple[str, ...]
    may: tuple[str, ...]
    read: Callable[[Row, Where], Billed | None]


@dataclass(slots=True)
class _Read:
    """What was read so far. ``open_ended``: kinds of pages of which the last one has not been seen."""

    vendors: set[str] = field(default_factory=set)
    days: set[date] = field(default_factory=set)
    rows: list[Billed] = field(default_factory=list)
    open_ended: dict[str, Where | None] = field(default_factory=dict)


def read_exports(files: Sequence[tuple[str, bytes]]) -> Export:
    """Files of one provider, by name and content: CSV or JSON, of usage or of cost, pages in any order.

    Raises `InvalidRequest`, which names file, line and column of what cannot be read.
    """
    found = _Read()
    for name, raw in files:
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise Where(name, f"line {line}").fault("is not UTF-8") from None
        if text.lstrip()[:1] in ("{", "["):
            _read_json(text, Where(name), found)
        else:
            _read_csv(text, name, found)
    for where in found.open_ended.values():
        if where is not None:
            raise where.fault("is not the last page (has_more is true); fetch next_page too and give all files at once")
    if not found.days:
        raise InvalidRequest(f"{files[0][0]}: has no rows")
    if len(found.vendors) > 1:
        raise InvalidRequest("The files are of several providers; reconcile them one by one.")
    return Export(found.vendors.pop(), min(found.days), max(found.days), tuple(found.rows))


# -- CSV --------------------------------------------------------------------------------------------------------------


def _read_csv(text: str, file: str, found: _Read) -> None:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        head = [name.strip() for name in next(reader, [])]
        table = _table_of(head, file)
        found.vendors.add(table.vendor)
        for cells in reader:
            if cells:
                _read_line(
                    dict(zip(head, cells, strict=False)), len(cells) - len(head), table, found, _line(file, reader)
                )
    except csv.Error as error:
        raise _line(file, reader).fault(f"is no CSV: {error}") from None


def _line(file: str, reader: Any) -> Where:
    return Where(file, f"line {max(1, reader.line_num)}")


def _table_of(head: Sequence[str], file: str) -> Table:
    where = Where(file, "line 1")
    table = next((table for table in TABLES if set(table.needs) <= set(head)), None)
    if table is None:
        raise where.fault("has the columns of no export that is known (see docs/usage.md)")
    for name in head:
        if name not in (*table.needs, *table.may):
            raise where.column(name[:80] or "(without a name)").fault("is unknown")
        if head.count(name) > 1:
            raise where.column(name).fault("stands more than once")
    return table


def _read_line(row: Row, surplus: int, table: Table, found: _Read, where: Where) -> None:
    if surplus:
        raise where.fault(f"has {abs(surplus)} cells too {'many' if surplus > 0 else 'few'}")
    billed = table.read(row, where)
    if billed is None:
        found.days.add(_start(row, where))  # a day on which nothing was used
    else:
        found.days.add(billed.day)
        found.rows.append(billed)


def _openai_usage_line(row: Row, where: Where) -> Billed | None:
    if not row["model"] and not row["input_tokens"]:
        return None
    return _openai_usage(row, _start(row, where), where)


def _openai_cost_line(row: Row, where: Where) -> Billed | None:
    if not row["amount_value"]:
        return None
    item = row.get("line_item") or None
    amount = _nano(row["amount_value"], where.column("amount_value"))
    return _openai_cost(item, amount, row["amount_currency"], _start(row, where), where.column("amount_currency"))


def _anthropic_usage_line(row: Row, where: Where) -> Billed:
    uncached, short, long, read, given = (_count(row[name], where.column(name)) for name in ANTHROPIC_USAGE)
    day, model = _day(row["usage_date_utc"], where.column("usage_date_utc")), row["model_version"]
    return Billed(
        day, _named(model, where.column("model_version")), _anthropic_sums(uncached, short, long, read, given)
    )


def _anthropic_cost_line(row: Row, where: Where) -> Billed:
    day = _day(row["usage_date_utc"], where.column("usage_date_utc"))
    cost = _nano(row["cost_usd"], where.column("cost_usd"))
    return _anthropic_cost(day, row["model"] or None, cost, row.get("cost_type") or None)


TABLES = (
    Table(
        "openai",
        ("start_time", "model", "input_tokens", "output_tokens"),
        (*OPENAI_TIMES, *OPENAI_WHO, *OPENAI_COUNTS, "batch", "service_tier", "object"),
        _openai_usage_line,
    ),
    Table(
        "openai",
        ("start_time", "amount_value", "amount_currency"),
        (*OPENAI_TIMES, *OPENAI_WHO, "line_item", "quantity", "quantity_unit", "object"),
        _openai_cost_line,
    ),
    Table(
        "anthropic",
        ("usage_date_utc", "model_version", *ANTHROPIC_USAGE),
        (*ANTHROPIC_WHAT, "web_search_count"),
        _anthropic_usage_line,
    ),
    Table(
        "anthropic",
        ("usage_date_utc", "model", "cost_usd"),
        (*ANTHROPIC_WHAT, "token_type", "list_price_usd", "cost_type", "description"),
        _anthropic_cost_line,
    ),
)  # fmt: skip
"""The first whose columns are all there is taken."""


# -- JSON -------------------------------------------------------------------------------------------------------------


def _read_json(text: str, where: Where, found: _Read) -> None:
    try:
        document = json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError as error:
        raise Where(where.file, f"line {error.lineno}, column {error.colno}").fault("is no JSON") from None
    except (RecursionError, ValueError):  # the second for a number of thousands of digits
        raise where.fault("is nested too deeply, or has a number that is none") from None
    pages = document if isinstance(document, list) else [document]
    for number, page in enumerate(pages):
        at = Where(where.file, f"[{number}]") if isinstance(document, list) else where
        _read_page(_object(page, at), at, found)


def _read_page(page: Row, where: Where, found: _Read) -> None:
    kinds = set()
    for bucket, at in _objects(page, "data", where):
        vendor, day_of, read = BUCKETS["start_time" in bucket]
        found.vendors.add(vendor)
        day = day_of(bucket, at)
        found.days.add(day)
        for result, place in _objects(bucket, "results", at):
            kind, billed = read(result, day, place)
            kinds.add(kind)
            found.rows.append(billed)
    for kind in kinds or set(found.open_ended):  # a page without results may be the last of any
        if page.get("has_more") is True:
            found.open_ended.setdefault(kind, where)
        else:
            found.open_ended[kind] = None


def _anthropic_result(result: Row, day: date, where: Where) -> tuple[str, Billed]:
    if "uncached_input_tokens" in result:
        return "anthropic usage", _anthropic_usage(result, day, where)
    amount = _nano(result.get("amount"), where.column("amount"), cents=True)
    _in_dollars(result.get("currency", "USD"), where.column("currency"))
    return "anthropic cost", _anthropic_cost(day, result.get("model"), amount, result.get("cost_type"))


def _openai_result(result: Row, day: date, where: Where) -> tuple[str, Billed]:
    kind = result.get("object")
    if kind in ("organization.usage.completions.result", "organization.usage.embeddings.result"):
        return str(kind), _openai_usage(result, day, where)
    if kind == "organization.costs.result":
        at = where.column("amount")
        paid = _object(result.get("amount"), at)
        nano = _nano(paid.get("value"), at.column("value"))
        item, currency = result.get("line_item"), at.column("currency")
        return str(kind), _openai_cost(item, nano, paid.get("currency"), day, currency)
    raise where.column("object").fault("must be a result of usage/completions, usage/embeddings or costs")


def _anthropic_usage(result: Row, day: date, where: Where) -> Billed:
    written = {} if result.get("cache_creation") is None else result["cache_creation"]
    inner = _object(written, where.column("cache_creation"))
    short, long = (
        _count(inner.get(name, 0), where.column("cache_creation").column(name))
        for name in ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
    )
    uncached, cached, given = (
        _count(result.get(name, 0), where.column(name))
        for name in ("uncached_input_tokens", "cache_read_input_tokens", "output_tokens")
    )
    model = _named(result.get("model"), where.column("model"))
    return Billed(day, model, _anthropic_sums(uncached, short, long, cached, given))


def _objects(holder: Row, name: str, where: Where) -> Iterator[tuple[Row, Where]]:
    listed = holder.get(name)
    if not isinstance(listed, list):
        raise where.column(name).fault("must be a list")
    for number, one in enumerate(listed):
        at = where.column(f"{name}[{number}]")
        yield _object(one, at), at


def _object(value: Any, where: Where) -> Row:
    if not isinstance(value, dict):
        raise where.fault("must be an object")
    return value


# -- what both have in common -----------------------------------------------------------------------------------------


def _openai_usage(row: Row, day: date, where: Where) -> Billed:
    """Cached tokens are part of ``input_tokens``, reasoning is part of ``output_tokens``."""
    sums = {
        "prompt_tokens": _count(row.get("input_tokens"), where.column("input_tokens")),
        "cache_read": _count(row.get("input_cached_tokens") or 0, where.column("input_cached_tokens")),
        "completion_tokens": _count(row.get("output_tokens") or 0, where.column("output_tokens")),
    }
    return Billed(day, _named(row.get("model"), where.column("model")), sums)


def _openai_cost(item: Any, nano: int, currency: Any, day: date, where: Where) -> Billed:
    """A line item is a model and what of it, with a comma between; what has no comma may be anything."""
    _in_dollars(currency, where)
    model = str(item).partition(", ")[0] if item else None
    return Billed(day, model, {"cost": nano})


def _anthropic_sums(uncached: int, short: int, long: int, read: int, given: int) -> dict[str, int]:
    return {
        "prompt_tokens": uncached + short + long + read,
        "cache_read": read,
        "cache_write_5m": short,
        "cache_write_1h": long,
        "completion_tokens": given,
    }


def _anthropic_cost(day: date, model: Any, nano: int, kind: Any) -> Billed:
    if kind in (None, "token", "tokens"):
        return Billed(day, model, {"cost": nano})
    return Billed(day, None, {"cost": nano}, item=str(kind)[:80])


def _start(row: Row, where: Where) -> date:
    """The UTC day in which a bucket of OpenAI's begins, which may not be longer than a day."""
    begins = _count(row.get("start_time"), where.column("start_time"))
    ends = row.get("end_time")
    if ends not in (None, "") and _count(ends, where.column("end_time")) - begins > DAY_S:
        raise where.column("end_time").fault("makes a bucket longer than a day; export by day")
    try:
        return datetime.fromtimestamp(begins, UTC).date()
    except (ValueError, OverflowError, OSError):
        raise where.column("start_time").fault("is no moment") from None


def _anthropic_start(bucket: Row, where: Where) -> date:
    return _day(bucket.get("starting_at"), where.column("starting_at"))


def _day(value: Any, where: Where) -> date:
    """A day, or a moment of one, in UTC."""
    try:
        found = datetime.fromisoformat(value)
        return (found.astimezone(UTC) if found.tzinfo else found).date()
    except (TypeError, ValueError, OverflowError):
        raise where.fault("must be a day such as 2026-11-21, or a moment in ISO 8601") from None


def _count(value: Any, where: Where) -> int:
    """A whole number, in CSV as its digits, perhaps with ``.0`` behind."""
    text = str(value).strip().removesuffix(".0")
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > MOST_COUNT:
        raise where.fault(f"must be a whole number, not {_shown(value)}")
    return int(text)


def _nano(value: Any, where: Where, *, cents: bool = False) -> int:
    """Dollars, or cents, as 10⁻⁹ dollar; a credit is below nothing."""
    try:
        dollars = Decimal(str(value)) / (100 if cents else 1)
    except InvalidOperation:
        dollars = Decimal("NaN")
    if isinstance(value, bool) or not dollars.is_finite() or abs(dollars) > MOST_DOLLARS:
        raise where.fault(f"must be an amount, not {_shown(value)}")
    return int((dollars * NANO).to_integral_value(ROUND_HALF_UP))


def _in_dollars(currency: Any, where: Where) -> None:
    if str(currency).lower() != "usd":
        raise where.fault(f"must be usd, not {_shown(currency)}")


def _named(model: Any, where: Where) -> str:
    if not isinstance(model, str) or not model.strip():
        raise where.fault("names no model; export it grouped by model")
    return model.strip()[:160]


def _shown(value: Any) -> str:
    return repr(value)[:60]


BUCKETS = {True: ("openai", _start, _openai_result), False: ("anthropic", _anthropic_start, _anthropic_result)}
"""Whose a bucket is, by whether it begins with ``start_time``; how its day is read, and how one of its results."""
