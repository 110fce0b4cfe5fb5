"""Figures as people read them, for the templates: ``{{ cost | dollars }}``."""

from __future__ import annotations

from decimal import Decimal

from flaskllm.blueprints.admin._pages import bp
from flaskllm.domain.pricing import NANO

NOTHING = "–"


@bp.app_template_filter("dollars")
def dollars(nano: int | None) -> str:
    """10⁻⁹ dollar as dollars: cents from one dollar on, else as many places as it takes to see something.

    >>> dollars(1_234_567_000_000), dollars(21_300_000), dollars(213_000), dollars(1), dollars(0)
    ('$1,234.57', '$0.0213', '$0.00021', '$0.000000001', '$0')
    """
    if not nano:
        return NOTHING if nano is None else "$0"
    amount = Decimal(nano) / NANO
    places = 2 if amount >= 1 else min(max(4, 1 - amount.adjusted()), 9)
    return f"${amount:,.{places}f}"


@bp.app_template_filter("figure")
def figure(count: int | None) -> str:
    """A whole number with its thousands set apart.

    >>> figure(1234567)
    '1,234,567'
    """
    return NOTHING if count is None else f"{count:,}"


@bp.app_template_filter("short")
def short(count: int) -> str:
    """A large whole number to three digits.

    >>> short(950), short(12_345), short(2_801_000), short(3_000_000_000)
    ('950', '12.3 k', '2.8 M', '3 G')
    """
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count // size:,} {unit}"
    return str(count)


@bp.app_template_filter("duration")
def duration(ms: int) -> str:
    """Milliseconds, or seconds from ten thousand on; minutes from ten on.

    >>> duration(850), duration(12_345), duration(754_000)
    ('850 ms', '12.3 s', '12 min 34 s')
    """
    if ms < 10_000:
        return f"{ms:,} ms"
    if ms < 600_000:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    return f"{minutes:,} min {seconds} s"
