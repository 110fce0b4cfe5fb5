"""The strict provider simulator: every vendor's wire on one local port, with faults on demand.

>>> with Upstream() as up:
...     up.script(faults.status(429, retry_after=2), vendor="openai", times=1)
...     base, key = up.openai_base, up.keys["openai"]
"""

from . import faults
from .faults import Behaviour
from .ledger import BillRow, Seen
from .remote import RemoteUpstream
from .server import Upstream

__all__ = ["Behaviour", "BillRow", "RemoteUpstream", "Seen", "Upstream", "faults"]
