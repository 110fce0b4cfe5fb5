"""usage: tags as they were at the call, and the buckets of its tokens

Calls from before are given the tags that their tokens have now; their tokens stay undivided.

Revision ID: 0012
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0007"
branch_labels = None
depends_on = None

BUCKETS = (
    "cache_read", "cache_write_5m", "cache_write_1h", "reasoning", "audio_input", "audio_output", "image_input",
    "image_output", "images",
)
FILL = """
UPDATE calls SET tags = (SELECT api_tokens.tags FROM api_tokens WHERE api_tokens.id = calls.token_id)
WHERE token_id IN (SELECT id FROM api_tokens WHERE tags <> '[]')
"""


def upgrade() -> None:
    op.add_column("attempts", sa.Column("tags", sa.Text(), nullable=True))
    op.add_column("calls", sa.Column("tags", sa.Text(), nullable=True))
    for name in BUCKETS:
        op.add_column("calls", sa.Column(name, sa.BigInteger(), nullable=True))
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL statement_timeout = 0")
    op.execute(FILL)


def downgrade() -> None:
    with op.batch_alter_table("calls", schema=None) as batch_op:
        for name in (*BUCKETS, "tags"):
            batch_op.drop_column(name)
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.drop_column("tags")
