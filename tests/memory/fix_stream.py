# SPDX-License-Identifier: Apache-2.0
"""Certificates, a process whose memory is known, a store's files: for the stream's tests."""

from __future__ import annotations

import datetime
import mmap
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shim.memory.stream import TlsFiles

PAGE = mmap.PAGESIZE
REGION_BYTES = 64 << 20
BLOCK_PAGES = 64

INDEX_HEAD = struct.Struct("<8siIQQQQQQ")
INDEX_RUN = struct.Struct("<QQQ")
INDEX_HOT = struct.Struct("<QQ")

# Prints its block's address. Reads "write PAGE BYTE", "zero PAGE", "hide PAGE", "unmap PAGE";
# answers each by "ok".
TARGET = """
import ctypes, mmap, os, random, sys
pages, seed = int(sys.argv[1]), int(sys.argv[2])
block = mmap.mmap(-1, pages * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
dice = random.Random(seed)
for page in range(pages):
    block.write(dice.randbytes(4096))
address = ctypes.addressof(ctypes.c_char.from_buffer(block))
libc = ctypes.CDLL(None)
print(address, flush=True)
for line in sys.stdin:
    word, *rest = line.split()
    if word == "quit":
        break
    page = int(rest[0])
    if word == "write":
        block[page * 4096 : page * 4096 + 4096] = bytes([int(rest[1])]) * 4096
    elif word == "zero":
        block[page * 4096 : page * 4096 + 4096] = bytes(4096)
    elif word == "hide":
        libc.mprotect(ctypes.c_void_p(address + page * 4096), 4096, 0)
    elif word == "unmap":
        libc.munmap(ctypes.c_void_p(address + page * 4096), 4096)
    print("ok", flush=True)
os._exit(0)
"""


class Authority:
    """A small CA that writes PEM files below a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.name, self.key, x509.BasicConstraints(True, None), None)
        self.path = directory / f"{name}.pem"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, expired: bool = False) -> TlsFiles:
        """A certificate for a node."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key, x509.BasicConstraints(False, None), name, expired)
        stem = self.directory / f"{self.path.stem}-{name}{'-old' if expired else ''}"
        stem.with_suffix(".crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        stem.with_suffix(".key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return TlsFiles(stem.with_suffix(".crt"), stem.with_suffix(".key"), self.path)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        constraints: x509.BasicConstraints,
        dns_name: str | None,
        expired: bool = False,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * day)
            .not_valid_after(now - day if expired else now + day)
            .add_extension(constraints, critical=True)
        )
        if dns_name is not None:
            names = x509.SubjectAlternativeName([x509.DNSName(dns_name)])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())


class Target:
    """A process with a block of random pages; a context manager that ends it."""

    def __init__(self, pages: int, seed: int = 1) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", TARGET, str(pages), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pages = pages
        self.address = int(self._line())

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, command: str) -> None:
        """Gives a command and waits until it is done."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        assert self._line() == "ok"

    def read(self) -> bytes:
        """Its block, read in another way than the sender's."""
        fd = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY)
        try:
            return os.pread(fd, self.pages * PAGE, self.address)
        finally:
            os.close(fd)

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def message(fields: list[tuple[int, int]]) -> bytes:
    """A protobuf message of numbers, with its length in front."""
    out = bytearray()
    for number, value in fields:
        out.append(number << 3)
        left = value
        while left > 0x7F:
            out.append(left & 0x7F | 0x80)
            left >>= 7
        out.append(left)
    return struct.pack("<I", len(out)) + bytes(out)


def pagemap(entries: list[tuple[int, int, int]], pages_id: int = 1) -> bytes:
    """A pagemap image as CRIU writes it: addresses, numbers of pages, flags."""
    out = struct.pack("<II", 0x54564319, 0x56084025) + message([(1, pages_id)])
    for vaddr, pages, flags in entries:
        out += message([(1, vaddr), (2, pages), (4, flags), (5, pages)])
    return out


@dataclass(frozen=True, slots=True)
class Index:
    """An index file, parsed."""

    pid: int
    zero_pages: int
    runs: list[tuple[int, int, int]]
    hot: list[tuple[int, int]]

    @classmethod
    def read(cls, path: Path) -> Index:
        raw = path.read_bytes()
        magic, pid, _, runs, hot, pages, zero, _, _ = INDEX_HEAD.unpack_from(raw)
        assert magic == b"PFSTORE\x01"
        at = INDEX_HEAD.size
        middle = at + runs * INDEX_RUN.size
        assert len(raw) == middle + hot * INDEX_HOT.size
        listed = list(INDEX_RUN.iter_unpack(raw[at:middle]))
        assert sum(one[1] for one in listed) == pages
        return cls(pid, zero, listed, list(INDEX_HOT.iter_unpack(raw[middle:])))

    def page(self, data: Path, vaddr: int) -> bytes:
        """What the pager would place there; zeros where it would place nothing."""
        for start, pages, offset in self.runs:
            if start <= vaddr < start + pages * PAGE:
                with data.open("rb") as file:
                    file.seek(offset + vaddr - start)
                    return file.read(PAGE)
        return bytes(PAGE)
