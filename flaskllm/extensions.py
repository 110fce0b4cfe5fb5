"""Flask's extensions, unbound, and the one handle through which views reach the services."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flask import current_app
from flask_cors import CORS
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase
from werkzeug.local import LocalProxy

if TYPE_CHECKING:
    from flaskllm.services import Services

NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Names for constraints, or SQLite's batch migrations cannot drop them."""


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)


db = SQLAlchemy(model_class=Base)
if TYPE_CHECKING:
    Model = Base
else:
    Model = db.Model
migrate = Migrate(render_as_batch=True, compare_type=True)
cors = CORS()

services: Services = cast("Services", LocalProxy(lambda: current_app.extensions["flaskllm"]))
"""The services of the current application, typed; only blueprints and commands ask for it."""
