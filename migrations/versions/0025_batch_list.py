"""batch jobs: everybody's, newest first, without reading them all

Revision ID: 0025
Revises: 0027
"""

from alembic import op

revision = "0025"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_batch_jobs_created", "batch_jobs", ["created_at", "id"])


def downgrade() -> None:
    op.drop_index("ix_batch_jobs_created", "batch_jobs")
