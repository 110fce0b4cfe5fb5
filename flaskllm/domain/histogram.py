"""Times kept as counts by size: percentiles of any span come from sums, and no call has to be read again for them.

Bucket 0 holds up to 1 ms, bucket n what lies above 1.2ⁿ⁻¹ and up to 1.2ⁿ ms. A percentile is told as the geometric
middle of its bucket, so that it is off by at most 9.6 % (√1.2 − 1), whatever the times are like.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping

GROWTH = 1.2
LAST = 112
"""The bucket of what takes longer than a week."""
_LOG = math.log(GROWTH)


def bucket_of(milliseconds: int) -> int:
    """Where a time belongs.

    >>> [bucket_of(each) for each in (0, 1, 2, 100, 101)]
    [0, 0, 4, 26, 26]
    """
    if milliseconds <= 1:
        return 0
    return min(LAST, math.ceil(math.log(milliseconds) / _LOG))


def middle_of(bucket: int) -> float:
    """The milliseconds that a bucket stands for."""
    return 1.0 if bucket == 0 else GROWTH ** (bucket - 0.5)


class Histogram(Counter[int]):
    """How many times fell into each bucket; sums of two are ``update``."""

    @classmethod
    def of(cls, times: Iterable[int]) -> Histogram:
        return cls(bucket_of(each) for each in times)

    @classmethod
    def from_json(cls, held: str | None) -> Histogram:
        found = cls()
        found.add_json(held)
        return found

    def add_json(self, held: str | None) -> None:
        """Add one as `to_json` wrote it."""
        if held:
            for text, count in json.loads(held).items():
                bucket = int(text)
                self[bucket] = self.get(bucket, 0) + count

    def to_json(self) -> str | None:
        """None where nothing is in it."""
        return json.dumps({str(one): self[one] for one in sorted(self)}, separators=(",", ":")) if self else None

    def percentile(self, share: float) -> float | None:
        """The milliseconds within which this share (0.95) of the times lay; None where there are none."""
        rank, seen = math.ceil(share * self.total()), 0
        for bucket in sorted(self):
            seen += self[bucket]
            if seen >= max(1, rank):
                return middle_of(bucket)
        return None

    def percentiles(self, *shares: float) -> Mapping[str, float | None]:
        """By name: ``p50`` for 0.5.

        >>> Histogram.of([10, 10, 200]).percentiles(0.5)
        {'p50': 9.767098680983464}
        """
        return {f"p{share * 100:g}": self.percentile(share) for share in shares}
