"""files, and the batches that come in as one

Revision ID: 0017
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0014"
branch_labels = None
depends_on = None

IS_UNDELIVERED = sa.text("door = 'batches' AND finished_at IS NOT NULL AND delivered_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("user_id", sa.String(36), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
    )
    op.create_index("ix_files_user", "files", ["user_id", "created_at"])
    op.create_index("ix_files_expires", "files", ["expires_at"])
    op.create_table(
        "file_pieces",
        sa.Column("file_id", sa.String(40), nullable=False),
        sa.Column("idx", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["file_id"], ["files.id"], name="fk_file_pieces_file_id_files", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("file_id", "idx", name="pk_file_pieces"),
    )
    with op.batch_alter_table("batch_jobs") as table:
        table.add_column(sa.Column("delivered_at", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_batch_jobs_undelivered",
        "batch_jobs",
        ["finished_at"],
        sqlite_where=IS_UNDELIVERED,
        postgresql_where=IS_UNDELIVERED,
    )


def downgrade() -> None:
    op.drop_index("ix_batch_jobs_undelivered", "batch_jobs")
    with op.batch_alter_table("batch_jobs") as table:
        table.drop_column("delivered_at")
    op.drop_table("file_pieces")
    op.drop_table("files")
