"""Passwords, provider keys at rest and access tokens."""

from __future__ import annotations

import base64
import json
import threading
import time

import jwt
import pytest
from cryptography.fernet import Fernet

from flaskllm.errors import TokenExpired, Unauthenticated, Unavailable
from flaskllm.security import AccessClaims, JwtCodec, Passwords, Undecryptable, Vault, WebhookSigner
from tests.clock import quickest

KEY = "k3Yr9vQ2mZ7pX4tB8nL1wS6dF0hJ5cGa"
OTHER_KEY = "pQ8wE2rT6yU1iO5aS9dF3gH7jK4lZ0xC"


# -- passwords --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def passwords() -> Passwords:
    return Passwords()


def test_the_right_password_is_taken_and_a_wrong_one_is_not(passwords: Passwords):
    known = passwords.hash("Password123")
    assert passwords.verify("Password123", known)
    assert not passwords.verify("Password124", known)


def test_passwords_alike_in_their_first_72_bytes_are_different(passwords: Passwords):
    assert not passwords.verify("Aa1" * 24 + "Y", passwords.hash("Aa1" * 24 + "X"))


def test_a_password_does_not_end_at_nul(passwords: Passwords):
    assert not passwords.verify("Password123", passwords.hash("Password123\x00x"))


def test_nobody_has_a_password(passwords: Passwords):
    assert not passwords.verify("Password123", None)
    assert not passwords.verify("Password123", "no hash at all")


def test_nobody_is_refused_as_slowly_as_somebody(passwords: Passwords):
    known = passwords.hash("Password123")
    somebody = quickest(lambda: passwords.verify("wrong", known), tries=7, clock=time.thread_time)
    nobody = quickest(lambda: passwords.verify("wrong", None), tries=7, clock=time.thread_time)
    assert 0.5 < nobody / somebody < 2


def test_who_finds_no_turn_is_told_to_come_back():
    passwords = Passwords(at_once=1, patience_s=0.01)
    with passwords._turn(), pytest.raises(Unavailable) as refused:
        passwords.hash("Password123")
    assert refused.value.retry_after


def test_no_more_than_two_hashes_run_at_once(passwords: Passwords, monkeypatch: pytest.MonkeyPatch):
    running, most = 0, 0
    lock = threading.Lock()

    def slowly(_password: str) -> str:
        nonlocal running, most
        with lock:
            running, most = running + 1, max(most, running + 1)
        time.sleep(0.02)
        with lock:
            running -= 1
        return ""

    busy = Passwords()
    monkeypatch.setattr(busy, "_hasher", type("Slow", (), {"hash": staticmethod(slowly)}))
    threads = [threading.Thread(target=busy.hash, args=("x",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2


# -- keys at rest -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, Fernet.generate_key().decode(), "short"], ids=["any", "Fernet", "short"])
def test_what_is_encrypted_comes_back(key: str):
    vault = Vault([key])
    assert vault.decrypt(vault.encrypt("sk-ä", context="openai.key"), context="openai.key") == "sk-ä"


def test_a_fernet_key_is_used_as_it_is():
    key = Fernet.generate_key()
    token = Vault([key.decode()]).encrypt("sk", context="c").rpartition(".")[2]
    assert json.loads(Fernet(key).decrypt(token)) == ["c", "sk"]


def test_the_secret_does_not_stand_in_the_ciphertext():
    sealed = Vault([KEY]).encrypt("sk-secret-of-mine", context="c")
    assert "secret" not in sealed
    assert b"secret" not in base64.urlsafe_b64decode(sealed.rpartition(".")[2])


def test_a_row_copied_elsewhere_does_not_open():
    vault = Vault([KEY])
    with pytest.raises(Undecryptable, match="another row"):
        vault.decrypt(vault.encrypt("sk", context="openai"), context="anthropic")


def test_the_first_key_writes_and_all_read():
    old, both = Vault([OTHER_KEY]), Vault([KEY, OTHER_KEY])
    sealed = old.encrypt("sk", context="c")
    assert both.decrypt(sealed, context="c") == "sk"
    assert not both.is_current(sealed)
    renewed = both.renew(sealed, context="c")
    assert both.is_current(renewed)
    assert Vault([KEY]).decrypt(renewed, context="c") == "sk"


@pytest.mark.parametrize("damaged", ["", "sk-plain", "v1..", "v2.abc.def", "v1.00000000.gAAAA"])
def test_what_no_key_of_ours_wrote_does_not_open(damaged: str):
    with pytest.raises(Undecryptable):
        Vault([KEY]).decrypt(damaged, context="c")


def test_a_changed_ciphertext_does_not_open():
    vault = Vault([KEY])
    sealed = vault.encrypt("sk", context="c")
    with pytest.raises(Undecryptable, match="damaged"):
        vault.decrypt(sealed[:-4] + "AAAA", context="c")


def test_a_vault_without_a_key_is_no_vault():
    with pytest.raises(ValueError, match="encryption key"):
        Vault([])


@pytest.mark.parametrize("secret, shown", [("sk-1234567890abcd", "••••abcd"), ("short", "••••"), ("", "••••")])
def test_a_mask_shows_four_characters_of_what_is_long_enough(secret: str, shown: str):
    assert Vault.mask(secret) == shown


# -- access tokens ----------------------------------------------------------------------------------------------------


@pytest.fixture
def codec() -> JwtCodec:
    return JwtCodec([KEY])


def forged(key: str = KEY, header: dict | None = None, **claims: object) -> str:
    """A token with these claims; None leaves one out."""
    now = int(time.time())
    full = {"iss": "flaskllm", "aud": "flaskllm", "sub": "u", "sid": "s", "typ": "access", "iat": now, "exp": now + 900}
    full.update(claims)
    return signed(
        key, {"alg": "HS256", "typ": "JWT", **(header or {})}, {k: v for k, v in full.items() if v is not None}
    )


def signed(key: str, header: dict, claims: dict) -> str:
    """By hand: PyJWT would not write what an attacker writes."""
    import hashlib
    import hmac

    body = ".".join(_b64(json.dumps(part).encode()) for part in (header, claims))
    return f"{body}.{_b64(hmac.new(key.encode(), body.encode(), hashlib.sha256).digest())}"


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_what_is_written_is_read(codec: JwtCodec):
    token = codec.write(user_id="u", session_id="s", seconds=900)
    assert codec.read(token) == AccessClaims("u", "s")


def test_the_forger_of_these_tests_writes_tokens_that_are_taken(codec: JwtCodec):
    assert codec.read(forged()) == AccessClaims("u", "s")


def test_twenty_seconds_too_late_is_within_the_leeway(codec: JwtCodec):
    assert codec.read(forged(exp=int(time.time()) - 20))


def test_a_minute_too_late_is_expired(codec: JwtCodec):
    with pytest.raises(TokenExpired):
        codec.read(forged(exp=int(time.time()) - 60))


def test_keys_overlap_while_they_are_exchanged():
    token = JwtCodec([OTHER_KEY]).write(user_id="u", session_id="s", seconds=900)
    assert JwtCodec([KEY, OTHER_KEY]).read(token)
    with pytest.raises(Unauthenticated):
        JwtCodec([KEY]).read(token)


@pytest.mark.parametrize("name", ["exp", "iat", "sub", "sid", "typ", "aud", "iss"])
def test_every_claim_is_needed(codec: JwtCodec, name: str):
    with pytest.raises(Unauthenticated):
        codec.read(forged(**{name: None}))


@pytest.mark.parametrize(
    "claims",
    [{"exp": str(int(time.time()) + 10**6)}, {"exp": 1e300}, {"exp": True}, {"exp": [1]}, {"exp": float("inf")},
     {"iat": "now"}, {"iat": int(time.time()) + 10**6}, {"sub": 1}, {"sid": 1}, {"typ": "refresh"}, {"aud": "other"},
     {"iss": "other"}, {"exp": int(time.time()) + 10**9}],
)  # fmt: skip
def test_odd_claims_are_refused(codec: JwtCodec, claims: dict):
    with pytest.raises(Unauthenticated):
        codec.read(forged(**claims))


@pytest.mark.parametrize(
    "header",
    [{"kid": "../../../../dev/null"}, {"kid": "x' UNION SELECT 'k"}, {"kid": 7}, {"kid": []},
     {"b64": False, "crit": ["b64"]}, {"crit": ["x"], "x": 1}, {"crit": []},
     {"alg": "None"}, {"alg": "none"}, {"alg": "HS1"}, {"alg": "HS384"}, {"alg": "RS256"}, {"alg": None}],
)  # fmt: skip
def test_a_header_decides_nothing(codec: JwtCodec, header: dict):
    with pytest.raises(Unauthenticated):
        codec.read(forged(header=header))


def test_another_key_does_not_sign_for_us(codec: JwtCodec):
    with pytest.raises(Unauthenticated):
        codec.read(forged(key="another 32 byte key ............"))


def test_a_stripped_signature_is_none(codec: JwtCodec):
    head, _, _ = codec.write(user_id="u", session_id="s", seconds=900).rpartition(".")
    for token in (head + ".", head):
        with pytest.raises(Unauthenticated):
            codec.read(token)


@pytest.mark.alone
@pytest.mark.parametrize(
    "garbage",
    ["", "a", "a.b", "a.b.c", "a.b.c.d", "a.b.c.d.e", "....", "..", "é.é.é", "undefined", "a" * 1_000_000,
     "." * 100_000, "eyJhbGciOiJIUzI1NiJ9.bnVsbA.x"],
)  # fmt: skip
def test_garbage_is_refused_at_once(codec: JwtCodec, garbage: str):
    def read() -> None:
        with pytest.raises(Unauthenticated):
            codec.read(garbage)

    assert quickest(read) < 0.2


def test_a_payload_that_is_no_object_is_refused(codec: JwtCodec):
    with pytest.raises(Unauthenticated):
        codec.read(signed(KEY, {"alg": "HS256"}, [1]))  # type: ignore[arg-type]


def test_a_token_says_nothing_of_role_or_scopes(codec: JwtCodec):
    token = codec.write(user_id="u", session_id="s", seconds=900)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert set(claims) == {"iss", "aud", "sub", "sid", "typ", "iat", "exp"}


def test_short_keys_do_not_sign():
    with pytest.raises(ValueError, match="32 bytes"):
        JwtCodec(["short"])


def test_events_are_signed_as_the_standards_own_example() -> None:
    """The example of Standard Webhooks' libraries."""
    signer = WebhookSigner("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signer.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', at=1614265330)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_secret_that_is_no_base64_is_itself_the_key() -> None:
    plain = "a secret - of more than 32 characters"
    told = base64.b64encode(plain.encode()).decode()
    of = "one", b"{}"
    assert WebhookSigner(plain).headers(*of, at=1) == WebhookSigner(f"whsec_{told}").headers(*of, at=1)
