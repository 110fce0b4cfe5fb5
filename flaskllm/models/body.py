"""What was said in a call, where ``STORE_PROMPTS`` is on."""

from __future__ import annotations

from sqlalchemy import BigInteger, Text
from sqlalchemy.orm import Mapped, mapped_column

from flaskllm.extensions import Model


class BodyRow(Model):
    """Question and answer of one call, encrypted (`services.bodies`). Written with the call's own row, in its
    transaction (`repositories.ledger`); ``made_at``: milliseconds since 1970."""

    __tablename__ = "bodies"

    call_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    made_at: Mapped[int] = mapped_column(BigInteger, index=True)
    sealed: Mapped[str] = mapped_column(Text)
