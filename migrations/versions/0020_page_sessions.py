"""login_sessions.page_hash: sign-ins of browsers at /admin

Revision ID: 0020
Revises: 0017
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("login_sessions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("page_hash", sa.String(length=64), nullable=True))
        batch_op.create_unique_constraint(batch_op.f("uq_login_sessions_page_hash"), ["page_hash"])


def downgrade() -> None:
    op.execute("DELETE FROM login_sessions WHERE page_hash IS NOT NULL")  # without it, nobody's
    with op.batch_alter_table("login_sessions", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("uq_login_sessions_page_hash"), type_="unique")
        batch_op.drop_column("page_hash")
