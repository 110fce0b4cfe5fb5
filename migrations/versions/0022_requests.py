"""calls: an index for each thing that single calls are looked for by

Revision ID: 0022
Revises: 0021
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

BY = {"token": "token_id", "model": "model", "backend": "backend_model", "provider": "provider"}
HAS_FAILED, HAS_ERROR = sa.text("status >= 400"), sa.text("error_code IS NOT NULL")


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL statement_timeout = 0")
    for name, column in BY.items():
        op.create_index(f"ix_calls_{name}_started", "calls", [column, "started_at"])
    op.create_index("ix_calls_failed", "calls", ["started_at"], sqlite_where=HAS_FAILED, postgresql_where=HAS_FAILED)
    op.create_index(
        "ix_calls_error", "calls", ["error_code", "started_at"], sqlite_where=HAS_ERROR, postgresql_where=HAS_ERROR
    )


def downgrade() -> None:
    for name in ("error", "failed", *(f"{one}_started" for one in reversed(BY))):
        op.drop_index(f"ix_calls_{name}", "calls")
