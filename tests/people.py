"""Services of accounts and tokens on a real database, and a throttle that really counts."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from flask import Flask
from sqlalchemy import update

from flaskllm.domain.principal import Principal
from flaskllm.extensions import db
from flaskllm.repositories.database import Database
from flaskllm.repositories.users import User
from flaskllm.security import ChainKeys, JwtCodec, Passwords
from flaskllm.services.accounts import AccountService
from flaskllm.services.audit import AuditTrail
from flaskllm.services.tokens import TokenService

SIGNING_KEY = "k3Yr9vQ2mZ7pX4tB8nL1wS6dF0hJ5cGa"
PASSWORD = "Password123"
NEW_PASSWORD = "N3wPassword!"
CHEAPLY_HASHED = "$argon2id$v=19$m=8,t=1,p=1$smgFodtJN6SwdsH76hxcAA$72MVjtll5zgEIJ5SoIgvnCBVZCryvHEUX9pyewuzv2E"
"""`PASSWORD`. A hash says by itself how costly it is to check: this one 0.1 ms of CPU, one of the gateway's own 20."""


@dataclass
class Windows:
    """Windows in memory that begin now; `pass_by` lets time go by."""

    counts: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    began: float = field(default_factory=time.monotonic)

    def hit(self, key: str, limit: int, seconds: int) -> float:
        at = time.monotonic() - self.began
        window = int(at // seconds)
        self.counts[key, window] += 1
        return 0.0 if self.counts[key, window] <= limit else max(1.0, (window + 1) * seconds - at)

    def pass_by(self, seconds: float) -> None:
        self.began -= seconds


@dataclass
class People:
    """One process: its services, on a database that others may share."""

    database: Database
    accounts: AccountService
    tokens: TokenService
    throttle: Windows
    audit: AuditTrail

    def user(self, name: str = "alice", **more: Any) -> User:
        return self.accounts.create_user(name, f"{name}@example.com", PASSWORD, **more)

    def signed_in(self, name: str = "alice") -> Principal:
        return self.accounts.identify(self.accounts.login(name, PASSWORD).access_token)


def database_of(app: Flask) -> Database:
    with app.app_context():
        return Database(db.engine)


def make_account(app: Flask, name: str, **more: Any) -> User:
    """With `PASSWORD`, hashed cheaply; ``more`` as for `AccountService.create_user`: ``admin``."""
    user: User = app.extensions["flaskllm"].accounts.create_user(name, f"{name}@example.com", None, **more)
    with database_of(app).transaction() as session:
        session.execute(update(User).where(User.id == user.id).values(password_hash=CHEAPLY_HASHED))
    return user


def people(database: Database, *, environment_token: str | None = None, **options: Any) -> People:
    """Another process with these settings."""
    throttle = Windows()
    settings = {
        "registration": "open",
        "default_scopes": ("chat", "webhook", "external"),
        "default_budget": Decimal(10),
        "access_seconds": 900,
        "refresh_seconds": 3600,
        **options,
    }
    audit = AuditTrail(database, ChainKeys([SIGNING_KEY]))
    accounts = AccountService(
        database, audit=audit, passwords=Passwords(), jwt=JwtCodec([SIGNING_KEY]), throttle=throttle.hit, **settings
    )
    tokens = TokenService(database, audit=audit, environment_token=environment_token)
    return People(database, accounts, tokens, throttle, audit)
