# SPDX-License-Identifier: Apache-2.0
"""Owns the cluster's small CA: makes it, and signs the certificates by which nodes know each other.

ECDSA on P-256. A node's certificate serves both ways, names the node as its only DNS name, and is
good for TLS only.
"""

from __future__ import annotations

import datetime
import os
import re
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shim.errors import InvalidInput, Refused

CA_DAYS = 3650
NODE_DAYS = 365
_BACKDATED = datetime.timedelta(minutes=5)
"""Clocks of nodes differ a little."""
_NODE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?\Z")

Key = ec.EllipticCurvePrivateKey


def make_authority(directory: Path) -> None:
    """Makes ca.crt and ca.key.

    Raises:
        Refused: there is a CA already; every certificate in the cluster depends on it.
    """
    if (directory / "ca.key").exists() or (directory / "ca.crt").exists():
        raise Refused(
            "there is a CA already", where=str(directory), remedy="choose another directory"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "podferry CA")])
    certificate = (
        _builder(name, name, key, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(directory, "ca", certificate, key)


def issue(authority: Path, node: str, directory: Path, days: int = NODE_DAYS) -> None:
    """Makes node.crt, node.key and a copy of ca.crt for one node; older ones are replaced.

    Args:
        authority: the directory of ca.crt and ca.key.
        node: the node's name.
        directory: where to.
        days: how long the certificate is good.

    Raises:
        InvalidInput: no such name, or no CA there.
    """
    if not _NODE.match(node):
        raise InvalidInput(f"no name of a node: {node!r}", remedy="use the name Kubernetes has")
    try:
        ca = x509.load_pem_x509_certificate((authority / "ca.crt").read_bytes())
        ca_key = serialization.load_pem_private_key((authority / "ca.key").read_bytes(), None)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"no CA: {error}", where=str(authority), remedy="make one by `podferry pki init`"
        ) from error
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise InvalidInput("its key is not one of ours", where=str(authority / "ca.key"))
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(name, ca.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(node)]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write(directory, "node", certificate, key)
    (directory / "ca.crt").write_bytes((authority / "ca.crt").read_bytes())


def _builder(subject: x509.Name, issuer: x509.Name, key: Key, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _write(directory: Path, name: str, certificate: x509.Certificate, key: Key) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    # The key first: a certificate without one is found out at once, a lost key is not.
    for path, data, mode in (
        (directory / f"{name}.key", secret, 0o600),
        (directory / f"{name}.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o644),
    ):
        fresh = path.with_name(path.name + ".new")
        fresh.unlink(missing_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        fresh.replace(path)
