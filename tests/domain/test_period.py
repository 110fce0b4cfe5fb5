"""Periods of budgets in zones whose clocks are changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaskllm.domain.period import period_end, period_key

ZONES = st.sampled_from(
    [ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata",
                                 "America/Santiago", "Asia/Beirut", "Pacific/Apia", "Africa/Casablanca")]
)  # fmt: skip
MOMENTS = st.integers(1_262_304_000, 2_114_380_800).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
PERIODS = st.sampled_from(["day", "week", "month"])


@given(MOMENTS, ZONES, PERIODS)
def test_a_period_ends_at_the_moment_at_which_its_key_changes(moment: datetime, zone: ZoneInfo, period: str) -> None:
    end = period_end(period, moment.astimezone(zone))
    assert end is not None
    after = end.astimezone(UTC)
    before = after - timedelta(milliseconds=1)
    key = period_key(period, moment.astimezone(zone))
    assert moment <= before
    assert period_key(period, before.astimezone(zone)) == key != period_key(period, after.astimezone(zone))


@given(st.lists(MOMENTS, min_size=2, max_size=2), ZONES, PERIODS)
def test_a_later_moment_has_no_earlier_key(moments: list[datetime], zone: ZoneInfo, period: str) -> None:
    first, second = sorted(moments)
    assert period_key(period, first.astimezone(zone)) <= period_key(period, second.astimezone(zone))


@pytest.mark.parametrize("day, hours", [("2026-03-29", 23), ("2026-10-25", 25), ("2026-11-21", 24)])
def test_a_day_lasts_as_long_as_its_clocks_say(day: str, hours: int) -> None:
    begins = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo("Europe/Berlin"))
    end = period_end("day", begins)
    assert end is not None
    assert end.timestamp() - begins.timestamp() == hours * 3600


@given(MOMENTS, ZONES)
def test_the_total_has_one_key_and_no_end(moment: datetime, zone: ZoneInfo) -> None:
    assert (period_key("total", moment.astimezone(zone)), period_end("total", moment)) == ("total", None)
