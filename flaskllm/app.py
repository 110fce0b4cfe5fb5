"""The application factory: a table of contents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flask import Flask

from flaskllm import wiring
from flaskllm.blueprints import register_doors
from flaskllm.blueprints._cors import share_with_browsers
from flaskllm.blueprints._errors import register_error_handlers
from flaskllm.blueprints._hooks import register_hooks
from flaskllm.blueprints._wsgi import QueryTokenFilter
from flaskllm.cli import register_commands
from flaskllm.config import Settings
from flaskllm.extensions import db, migrate
from flaskllm.observability import configure_logging
from flaskllm.services.provider_factory import ProviderFactory


def create_app(
    settings: Settings | None = None,
    *,
    make_factory: Callable[..., ProviderFactory] = ProviderFactory,
    logs: bool = True,
) -> Flask:
    """The whole gateway. Touches no database: commands and `wsgi.py` make it ready.

    ``make_factory`` is given what the settings say of calls to providers. Without ``logs`` the logging of the program
    that it runs in is left alone.
    """
    settings = settings or Settings.load()
    if logs:
        configure_logging(level="DEBUG" if settings.debug else settings.log_level, folder=settings.log_path)
    app = Flask(__name__, instance_path=str(settings.instance_path))
    app.config.from_mapping(wiring.flask_config(settings))
    db.init_app(app)
    migrate.init_app(app, db, directory=str(Path(__file__).resolve().parent.parent / "migrations"))
    wiring.wire(app, settings, make_factory=make_factory)
    register_hooks(app, hsts=settings.is_production)
    share_with_browsers(app, origins=settings.allowed_origins)
    register_doors(app)  # after the hooks: a request has its id before the guard may refuse it
    register_error_handlers(app)
    register_commands(app)
    app.wsgi_app = QueryTokenFilter(wiring.behind_proxies(app.wsgi_app, settings))  # type: ignore[method-assign]
    return app
