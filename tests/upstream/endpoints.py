"""Addresses at which nothing good happens, and the certificate authority for the TLS tests."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def closed(host: str) -> tuple[str, list[socket.socket]]:
    """A port that refuses: bound, so nobody else gets it, but never listening."""
    sock = socket.socket()
    sock.bind((host, 0))
    return _address(sock), [sock]


def silent(host: str) -> tuple[str, list[socket.socket]]:
    """A port that accepts and says nothing: for TLS the handshake stalls, for HTTP no answer comes."""
    sock = socket.create_server((host, 0), backlog=1024)
    return _address(sock), [sock]


def black_hole(host: str) -> tuple[str, list[socket.socket]]:
    """A port whose queue is full, so that a SYN is never answered (Linux drops it)."""
    sock = socket.create_server((host, 0), backlog=0)
    held = [sock]
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(sock.getsockname())
        held.append(filler)
    return _address(sock), held


KINDS: dict[str, Callable[[str], tuple[str, list[socket.socket]]]] = {
    "closed": closed,
    "silent": silent,
    "black_hole": black_hole,
}


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{host}:{port}"


def authority(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-made CA file, and a server context with a certificate of it for 127.0.0.1 and localhost."""
    ca_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("FlaskLLM simulator CA")
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = (
        _certificate(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    leaf = (
        _certificate(_name("localhost"), ca_name, leaf_key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    ca_file, leaf_file = folder / "ca.pem", folder / "server.pem"
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    leaf_file.write_bytes(
        leaf.public_bytes(serialization.Encoding.PEM)
        + leaf_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf_file)
    return ca_file, context


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=2))
    )
