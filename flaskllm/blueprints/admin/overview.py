"""The first page: what the gateway does now, and how it has gone lately."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flask import Response

from flaskllm.blueprints._http import query
from flaskllm.blueprints.admin import _figures as figures
from flaskllm.blueprints.admin._pages import bp, page
from flaskllm.domain.histogram import Histogram
from flaskllm.domain.pricing import NANO
from flaskllm.errors import invalid
from flaskllm.extensions import services
from flaskllm.services.overview import WINDOWS, Overview, Rank

SPANS = {"hour": "Hour", "day": "Day", "week": "7 days", "month": "30 days", "year": "12 months"}
USUAL = "day"
WHEN = {"hour": "%H:%M", "day": "%H:%M", "week": "%a %H:%M", "month": "%d %b", "year": "%d %b %Y"}
"""How the beginning of a bar is told."""
WITHOUT = {"token": "without a token", "provider": "none asked", "tag": "without a tag"}
SHARES = (0.5, 0.95, 0.99)
SAME = "as before"


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the sums: in words, and against the stretch before. ``is_better``: None where neither is good or bad."""

    name: str
    words: str
    change: str = ""
    is_better: bool | None = None
    beside: str = ""


@bp.get("/overview")
def show_overview() -> Response:
    span = query("span").get("span") or USUAL
    if span not in WINDOWS:
        raise invalid("span", f"must be one of {', '.join(WINDOWS)}")
    found = services.overview.read(span)
    return page(
        "overview.html",
        state=services.troubles.look(),
        found=found,
        span=span,
        spans=SPANS,
        figures=list(_figures_of(found)),
        bars=list(_bars(found, WHEN[span])),
        ranks=_ranks(found),
        first_day=found.since.date().isoformat(),
    )


def _figures_of(found: Overview) -> Iterator[Figure]:
    now, before = found.whole, found.before
    yield _figure("Requests", now["requests"], before["requests"], figures.figure)
    yield _figure("Errors", now["errors"], before["errors"], figures.figure, less_is_better=True)
    yield _figure("Tokens in", now["prompt_tokens"], before["prompt_tokens"], figures.figure)
    yield _figure("Tokens out", now["completion_tokens"], before["completion_tokens"], figures.figure)
    unpriced = f"{figures.figure(now['unpriced'])} without a price" if now["unpriced"] else ""
    yield _figure("Cost", now["cost"], before["cost"], figures.dollars, beside=unpriced)
    hits = f"{figures.figure(now['from_cache'])} {'answer' if now['from_cache'] == 1 else 'answers'} from it"
    yield _figure("Saved by the cache", now["saved"], before["saved"], figures.dollars, beside=hits)
    yield _time("First token, half within", now.first_token, before.first_token)
    yield _time("Answer, half within", now.latency, before.latency)


def _figure(
    name: str,
    now: int,
    before: int,
    told: Callable[[int | None], str],
    *,
    less_is_better: bool = False,
    beside: str = "",
) -> Figure:
    change = _change(now, before)
    is_better = now < before if less_is_better and change not in ("", SAME) else None
    return Figure(name, told(now), change, is_better, beside)


def _time(name: str, now: Histogram, before: Histogram) -> Figure:
    half, most, nearly_all = (now.percentile(share) for share in SHARES)
    if half is None or most is None or nearly_all is None:
        return Figure(name, figures.NOTHING)
    was = before.percentile(SHARES[0])
    beside = f"95 % within {_told(most)}, 99 % within {_told(nearly_all)}"
    change = "" if was is None else _change(round(half), round(was))
    return Figure(name, _told(half), change, None if was is None or change in ("", SAME) else half < was, beside)


def _told(ms: float) -> str:
    return figures.duration(round(ms))


def _change(now: int, before: int) -> str:
    """How much more or less than before, in whole percent; nothing where there is nothing to compare.

    >>> _change(112, 100), _change(50, 100), _change(100, 100), _change(5, 0), _change(90_000, 100)
    ('12 % more', '50 % less', 'as before', '', '900 times as much')
    """
    if not before:
        return ""
    if now >= 10 * before:
        return f"{now // before:,} times as much"
    percent = round(100 * (now - before) / before)
    if not percent:
        return SAME
    return f"{percent} % more" if percent > 0 else f"{-percent} % less"


def _bars(found: Overview, form: str) -> Iterator[dict[str, Any]]:
    """Each stretch as a row of the table, from which the charts are drawn: (number, words) of each column."""
    for bar in found.bars:
        sums = bar.sums
        counts = [sums[name] for name in ("requests", "errors", "prompt_tokens", "completion_tokens")]
        times = [sums.first_token.percentile(0.5), sums.latency.percentile(0.5), sums.latency.percentile(0.95)]
        yield {
            "when": bar.begin.strftime(form),
            "cells": [
                *((count, figures.figure(count)) for count in counts),
                (f"{sums['cost'] / NANO:.9f}", figures.dollars(sums["cost"])),
                *(("" if ms is None else round(ms), figures.NOTHING if ms is None else _told(ms)) for ms in times),
            ],
        }


def _ranks(found: Overview) -> list[dict[str, Any]]:
    """By subject: its first items, and how many more there are."""
    return [
        {
            "subject": subject,
            "rows": [_rank(subject, rank, rows[0].sums["requests"]) for rank in rows],
            "more": found.counts[subject] - len(rows),
            "is_timed": subject in ("model", "provider"),
        }
        for subject in ("model", "provider", "user", "token", "tag")
        if (rows := found.ranks[subject])
    ]


def _rank(subject: str, rank: Rank, most: int) -> dict[str, Any]:
    times = (rank.sums.first_token.percentile(0.5), rank.sums.latency.percentile(0.95))
    return {
        "name": rank.name or WITHOUT.get(subject, figures.NOTHING),
        "sums": rank.sums,
        "share": 100 * rank.sums["requests"] / most if most else 0,
        "times": [figures.NOTHING if ms is None else _told(ms) for ms in times],
    }
