"""The first administrator: made on the page of a gateway that has none, by whoever can read what it prints."""

from __future__ import annotations

import hmac

from flaskllm.domain.audit import Actor
from flaskllm.errors import Conflict, Forbidden
from flaskllm.repositories.users import User
from flaskllm.services.accounts import AccountService
from flaskllm.services.guessing import Guesses, Throttle

WRONG_CODE = "The set-up code is wrong. The start prints it, and `flask --app wsgi setup-code` repeats it."


class FirstRun:
    """Open until there is an administrator. The code is asked for always: behind a proxy every visitor is loopback."""

    def __init__(self, accounts: AccountService, *, code: str, throttle: Throttle) -> None:
        self._accounts = accounts
        self._guesses = Guesses(throttle)
        self.code = code

    def is_open(self) -> bool:
        return not self._accounts.has_administrator()

    def make_administrator(self, code: str, username: str, email: str, password: str, *, actor: Actor) -> User:
        """Raises `Conflict` where there is one already, `Forbidden` for a wrong code, `RateLimited` for many."""
        if not self.is_open():
            raise Conflict("There is an administrator already; sign in.")
        self._guesses.count("set-up code", actor.address)
        if not hmac.compare_digest(_plain(code).encode(), _plain(self.code).encode()):
            raise Forbidden(WRONG_CODE, details=[{"field": "code", "message": "is wrong"}])
        return self._accounts.make_first_administrator(username, email, password, actor)


def _plain(code: str) -> str:
    """As it is compared: people leave hyphens out, add spaces, and type small letters."""
    return "".join(code.split()).replace("-", "").upper()
