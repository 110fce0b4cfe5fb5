"""Passwords, provider keys at rest, and signed access tokens.

PyJWT and not Flask-JWT-Extended: services, workers and tests read tokens without Flask, and a token says no more than
whose session it is (``docs/adr/0002``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jwt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flaskllm.domain.text import can_be_held
from flaskllm.errors import TokenExpired, Unauthenticated, Unavailable

MASK = "••••"
SHORTEST_SHOWN = 12
"""Of a shorter secret four characters would be too much."""
SHORTEST_KEY = 32


# -- passwords --------------------------------------------------------------------------------------------------------


class Passwords:
    """Argon2id, two at a time: fifty logins at once must not stop the chat of everybody else."""

    NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$QnG2oZB9vlcBbqGvRNJ9+w$5jyprl1otcG/ILsXdydRD9Xa0PsCzllwE/objSXt2a4"
    """What the password of a user who does not exist is compared with, for as long as it takes."""

    def __init__(self, *, at_once: int = 2, patience_s: float = 10.0) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
        self._room = threading.BoundedSemaphore(at_once)
        self._patience_s = patience_s

    def hash(self, password: str) -> str:
        with self._turn():
            return self._hasher.hash(password)

    def verify(self, password: str, known: str | None) -> bool:
        """Whether this is the password; for nobody (None) it takes the same time and is always False."""
        with self._turn():
            try:
                return self._hasher.verify(known or self.NOBODY, password) and known is not None
            except (VerificationError, InvalidHashError):
                return False

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._room.acquire(timeout=self._patience_s):
            raise Unavailable("Too many logins at once.", retry_after=self._patience_s)
        try:
            yield
        finally:
            self._room.release()


# -- keys at rest -----------------------------------------------------------------------------------------------------


class Undecryptable(ValueError):
    """Written with a key we do not have, changed, or moved here from another row."""


class Vault:
    """Encrypts what the database must not know. The first key writes, all read; each ciphertext names its key."""

    VERSION = "v1"

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise ValueError("at least one encryption key is needed")
        derived = [_fernet_key(key) for key in keys]
        self._fernets = {_key_id(key): Fernet(key) for key in derived}
        self._writes = _key_id(derived[0])

    def encrypt(self, plaintext: str, *, context: str) -> str:
        """``context`` says where it will stand (provider and column): elsewhere it will not decrypt."""
        bound = json.dumps([context, plaintext]).encode()
        return f"{self.VERSION}.{self._writes}.{self._fernets[self._writes].encrypt(bound).decode()}"

    def decrypt(self, ciphertext: str, *, context: str) -> str:
        """Raises `Undecryptable`, in words without secrets."""
        version, _, rest = ciphertext.partition(".")
        key_id, _, token = rest.partition(".")
        fernet = self._fernets.get(key_id) if version == self.VERSION else None
        if fernet is None:
            raise Undecryptable(f"written with the unknown key {key_id[:8]!r}")
        try:
            found, plaintext = json.loads(fernet.decrypt(token.encode()))
        except (InvalidToken, ValueError):
            raise Undecryptable("the ciphertext is damaged") from None
        if found != context:
            raise Undecryptable("the ciphertext belongs to another row")
        return str(plaintext)

    def is_current(self, ciphertext: str) -> bool:
        """Whether the first key wrote it; what is not current is to be encrypted anew (``flask keys rotate``)."""
        return ciphertext.startswith(f"{self.VERSION}.{self._writes}.")

    def renew(self, ciphertext: str, *, context: str) -> str:
        return self.encrypt(self.decrypt(ciphertext, context=context), context=context)

    @staticmethod
    def mask(secret: str) -> str:
        """The last four characters, of what is long enough for that."""
        return MASK + secret[-4:] if len(secret) >= SHORTEST_SHOWN else MASK


def _fernet_key(key: str) -> bytes:
    """The key itself where it is one of Fernet's; of any other text, its hash. How weak one may be is for `config`."""
    try:
        if len(base64.b64decode(key.encode(), altchars=b"-_", validate=True)) == 32:
            return key.encode()
    except (binascii.Error, ValueError):
        pass
    return base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest())


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"flaskllm key id\x00" + key).hexdigest()[:8]


# -- the audit trail's signatures -------------------------------------------------------------------------------------


class ChainKeys:
    """Signs the audit trail: HMAC-SHA256 by keys derived from the encryption keys. The first signs, all verify."""

    LABEL = b"flaskllm audit trail v1"

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise ValueError("at least one encryption key is needed")
        derived = [HKDF(SHA256(), length=32, salt=None, info=self.LABEL).derive(key.encode()) for key in keys]
        self._keys = {_key_id(key): key for key in derived}
        self.writes = _key_id(derived[0])

    def knows(self, key_id: str) -> bool:
        return key_id in self._keys

    def sign(self, message: bytes) -> str:
        """By the key that writes, in hexadecimal."""
        return self._mac(message, self.writes)

    def verify(self, message: bytes, signature: str, *, key_id: str) -> bool:
        """Whether this key, which has to be known, made this signature of it."""
        return hmac.compare_digest(self._mac(message, key_id).encode(), str(signature).encode("utf-8", "replace"))

    def _mac(self, message: bytes, key_id: str) -> str:
        return hmac.new(self._keys[key_id], message, hashlib.sha256).hexdigest()


# -- the first administrator ------------------------------------------------------------------------------------------


def setup_code(secret: str) -> str:
    """What the first administrator has to know: 80 bits drawn from ``SECRET_KEY``, the same in every process."""
    drawn = HKDF(SHA256(), length=10, salt=None, info=b"flaskllm set-up code v1").derive(secret.encode())
    text = base64.b32encode(drawn).decode()
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


# -- access tokens ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """Whose session an access token is; role and scopes come from the database, never from the token."""

    user_id: str
    session_id: str


class JwtCodec:
    """Access tokens: HS256 and nothing else. The first key signs, all verify."""

    ALGORITHM = "HS256"
    NAME = "flaskllm"
    TYPE = "access"
    REQUIRED = ("exp", "iat", "sub", "sid", "typ", "aud", "iss")
    LEEWAY_S = 30
    LONGEST = 4096
    LONGEST_LIFE_S = 2 * 86400
    REFUSAL = "The access token is not valid."

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys or any(len(key.encode()) < SHORTEST_KEY for key in keys):
            raise ValueError(f"signing keys need at least {SHORTEST_KEY} bytes")
        self._keys = {_key_id(key.encode()): key for key in keys}
        self._signs = _key_id(keys[0].encode())

    def write(self, *, user_id: str, session_id: str, seconds: int) -> str:
        issued = int(time.time())
        claims = {
            "iss": self.NAME,
            "aud": self.NAME,
            "sub": user_id,
            "sid": session_id,
            "typ": self.TYPE,
            "iat": issued,
            "exp": issued + seconds,
        }
        return jwt.encode(claims, self._keys[self._signs], self.ALGORITHM, headers={"kid": self._signs})

    def read(self, token: str) -> AccessClaims:
        """Raises `TokenExpired`, or `Unauthenticated` for all else, which is not told apart."""
        if len(token) > self.LONGEST or token.count(".") != 2 or not token.isascii():
            raise Unauthenticated(self.REFUSAL)
        try:
            keys = self._keys_for(jwt.get_unverified_header(token))
        except jwt.PyJWTError:
            raise Unauthenticated(self.REFUSAL) from None
        return self._claims(self._first_that_fits(token, keys))

    def _keys_for(self, header: dict[str, Any]) -> list[str]:
        """The key that ``kid`` names; it is looked up among ours and nowhere else. Without ``kid``: all of them."""
        if "crit" in header or "b64" in header or header.get("alg") != self.ALGORITHM:
            return []
        kid = header.get("kid")
        return list(self._keys.values()) if kid is None else [self._keys[kid]] if kid in self._keys else []

    def _first_that_fits(self, token: str, keys: Sequence[str]) -> dict[str, Any]:
        for key in keys:
            try:
                return jwt.decode(
                    token,
                    key,
                    algorithms=[self.ALGORITHM],
                    audience=self.NAME,
                    issuer=self.NAME,
                    leeway=self.LEEWAY_S,
                    options={"require": list(self.REQUIRED)},
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise TokenExpired("The access token has expired.") from None
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
                break
        raise Unauthenticated(self.REFUSAL)

    def _claims(self, claims: dict[str, Any]) -> AccessClaims:
        """PyJWT takes a ``exp`` that is text, or centuries away: we do not."""
        times_are_sound = all(_is_a_moment(claims[name]) for name in ("exp", "iat"))
        if not times_are_sound or claims["exp"] > time.time() + self.LONGEST_LIFE_S or claims["typ"] != self.TYPE:
            raise Unauthenticated(self.REFUSAL)
        if not all(isinstance(claims[name], str) and can_be_held(claims[name]) for name in ("sub", "sid")):
            raise Unauthenticated(self.REFUSAL)
        return AccessClaims(claims["sub"], claims["sid"])


def _is_a_moment(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class WebhookSigner:
    """Signs messages as Standard Webhooks does (its specification, "Signature scheme": HMAC-SHA256, ``v1``).

    ``secret``: ``whsec_`` and the key in base64, with or without that beginning; any other text is the key itself.
    """

    def __init__(self, secret: str) -> None:
        try:
            self._key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            self._key = secret.encode()

    def headers(self, message_id: str, body: bytes, *, at: int | None = None) -> dict[str, str]:
        """The three headers of one message. ``at``: seconds since 1970, now if left out."""
        timestamp = str(int(time.time()) if at is None else at)
        signed = hmac.new(self._key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
        return {
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
        }
