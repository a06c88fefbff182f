# SPDX-License-Identifier: Apache-2.0
"""Owns who this node is to others: its name, its certificate, and what gRPC is given of them."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from shim.errors import InvalidSettings, Refused
from shim.settings import Peers


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the certificates are, PEM.

    Attributes:
        ca: of the cluster's own CA.
        certificate: this node's.
        key: its private key.
    """

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Identity:
    """This node among others.

    Attributes:
        node: its name.
        files: its certificates.
    """

    node: str
    files: TlsFiles

    @classmethod
    def of(cls, settings: Peers) -> Identity:
        """What the settings say.

        Raises:
            InvalidSettings: the certificate or its key cannot be read or do not fit.
        """
        files = TlsFiles(Path(settings.ca), Path(settings.certificate), Path(settings.key))
        _check(files)
        return cls(settings.node or os.uname().nodename, files)

    def server_credentials(self) -> Any:
        """For a server that wants a certificate of its clients."""
        return grpc.ssl_server_credentials(
            [(self.files.key.read_bytes(), self.files.certificate.read_bytes())],
            root_certificates=self.files.ca.read_bytes(),
            require_client_auth=True,
        )

    def channel_credentials(self) -> Any:
        """For a channel to another node."""
        return grpc.ssl_channel_credentials(
            self.files.ca.read_bytes(),
            self.files.key.read_bytes(),
            self.files.certificate.read_bytes(),
        )


def _check(files: TlsFiles) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for path in (files.ca, files.certificate, files.key):
        if not path.is_file():
            raise InvalidSettings(
                "no such file", where=str(path),
                remedy="make it by `podferry pki`, or set [peers] ca, certificate and key",
            )  # fmt: skip
    if files.key.stat().st_mode & 0o077:
        raise InvalidSettings(
            "the private key is readable by others", where=str(files.key), remedy="chmod 0600"
        )
    try:
        context.load_cert_chain(files.certificate, files.key)
        context.load_verify_locations(files.ca)
    except (ssl.SSLError, OSError) as error:
        raise InvalidSettings(
            f"certificate and key are not usable: {error}", where=str(files.certificate),
            remedy="make them anew by `podferry pki`",
        ) from error  # fmt: skip


def peer_name(context: Any) -> str:
    """The name in the certificate of a call's client.

    Raises:
        Refused: it has none, which a server that wants certificates never lets through.
    """
    named = context.auth_context().get("x509_subject_alternative_name") or ()
    for one in named:
        return str(one, "utf-8", "replace")
    raise Refused("the client's certificate names no node", where="peer")
