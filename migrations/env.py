"""Alembic's way in: the application's engine and tables."""

from alembic import context
from flask import current_app

import flaskllm.models  # noqa: F401  (registers every table)
from flaskllm.repositories.postgresql import patience

migrate = current_app.extensions["migrate"]
db = migrate.db


def run_migrations_online():
    options = {**migrate.configure_args, "render_as_batch": True}
    options.setdefault("process_revision_directives", _drop_empty)
    with patience(None), db.engine.connect() as connection:
        context.configure(connection=connection, target_metadata=db.metadata, **options)
        with context.begin_transaction():
            _alone(connection)
            context.run_migrations()


def _alone(connection):
    """Two processes that start at once: the second waits, and then finds nothing left to do."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7263511)")
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")


def _drop_empty(_context, _revision, directives):
    if getattr(context.config.cmd_opts, "autogenerate", False) and directives[0].upgrade_ops.is_empty():
        directives[:] = []


if context.is_offline_mode():
    context.configure(url=str(db.engine.url), target_metadata=db.metadata, literal_binds=True, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    run_migrations_online()
