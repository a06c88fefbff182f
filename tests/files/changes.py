# SPDX-License-Identifier: Apache-2.0
"""Random things that programs do to a directory; each is done to the same tree in one order."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
from pathlib import Path

BLOCK = 64 << 10
NAMES = [b"a", b"b", b"a.b", b"a-", b"c d", b"\xff\xfe", "ü".encode(), b"-", b"n" * 255, b".h"]


class Program:
    """Changes a tree at random, reproducibly.

    Args:
        root: the tree.
        seed: what it does.
    """

    def __init__(self, root: Path, seed: int) -> None:
        self.root = os.fsencode(root)
        self.chance = random.Random(seed)

    def run(self, steps: int) -> None:
        """Does so many things; what does not fit the tree as it is does nothing."""
        doings = [self.write, self.write, self.patch, self.append, self.truncate, self.remove,
                  self.make_directory, self.rename, self.rename, self.link, self.symlink,
                  self.fifo, self.socket, self.device, self.permit, self.own, self.attribute,
                  self.stamp, self.sparse, self.replace, self.opaque]  # fmt: skip
        for _ in range(steps):
            with contextlib.suppress(OSError, shutil.Error):
                self.chance.choice(doings)()

    def somewhere(self) -> bytes:
        """A path, which may or may not exist; its directory does."""
        return os.path.join(self.directory(), self.chance.choice(NAMES))

    def directory(self) -> bytes:
        """A directory of the tree."""
        at = self.root
        while self.chance.random() < 0.6:
            below = [os.path.join(at, name) for name in sorted(os.listdir(at))]
            below = [one for one in below if os.path.isdir(one) and not os.path.islink(one)]
            if not below:
                break
            at = self.chance.choice(below)
        return at

    def existing(self) -> bytes:
        """An entry that exists, if the directory has one."""
        at = self.directory()
        names = sorted(os.listdir(at))
        return os.path.join(at, self.chance.choice(names)) if names else self.somewhere()

    def content(self) -> bytes:
        size = self.chance.choice([0, 1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
        return self.chance.randbytes(size)

    def opened(self, path: bytes, flags: int) -> int:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)

    def write(self) -> None:
        fd = self.opened(self.somewhere(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(fd, self.content())
        os.close(fd)

    def patch(self) -> None:
        fd = self.opened(self.existing(), os.O_WRONLY)
        os.pwrite(
            fd, self.chance.choice([b"patch", bytes(BLOCK)]), self.chance.randrange(4 * BLOCK)
        )
        os.close(fd)

    def append(self) -> None:
        fd = self.opened(self.existing(), os.O_WRONLY | os.O_APPEND)
        os.write(fd, self.content())
        os.close(fd)

    def truncate(self) -> None:
        os.truncate(self.existing(), self.chance.choice([0, 5, BLOCK, 2 * BLOCK + 1]))

    def remove(self) -> None:
        path = self.existing()
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def make_directory(self) -> None:
        os.mkdir(self.somewhere(), self.chance.choice([0o755, 0o1777, 0o2700]))

    def rename(self) -> None:
        # As mv does where the overlay cannot rename a directory of the image.
        source, target = self.existing(), self.somewhere()
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno != 18:  # EXDEV
                raise
            subprocess.run(["cp", "-a", source, target], check=False, stderr=subprocess.DEVNULL)
            shutil.rmtree(source)

    def link(self) -> None:
        os.link(self.existing(), self.somewhere(), follow_symlinks=False)

    def symlink(self) -> None:
        os.symlink(
            self.chance.choice([b"a", b"/etc/passwd", b"../../..", b"\xff"]), self.somewhere()
        )

    def fifo(self) -> None:
        os.mkfifo(self.somewhere())

    def socket(self) -> None:
        path = self.somewhere()
        with socket.socket(socket.AF_UNIX) as one, contextlib.suppress(OSError):
            parent = os.open(os.path.dirname(path), os.O_PATH)
            try:
                one.bind(b"/proc/self/fd/%d/%s" % (parent, os.path.basename(path)[:60]))
            finally:
                os.close(parent)

    def device(self) -> None:
        os.mknod(self.somewhere(), 0o020666, os.makedev(1, self.chance.choice([3, 5])))

    def permit(self) -> None:
        path = self.existing()
        if not os.path.islink(path):
            os.chmod(path, self.chance.choice([0o644, 0o4755, 0o2755, 0o1777, 0o000, 0o111]))

    def own(self) -> None:
        owner = self.chance.choice([0, 1000, 65534, 3_000_000_000])
        os.chown(self.existing(), owner, owner, follow_symlinks=False)

    def attribute(self) -> None:
        path = self.existing()
        name, value = self.chance.choice(
            [
                (b"user.note", self.chance.randbytes(20)),
                (b"trusted.note", b"kept"),
                (b"security.capability", bytes.fromhex("0100000200040000000000000000000000000000")),
            ]
        )
        if self.chance.random() < 0.3:
            os.removexattr(path, name, follow_symlinks=False)
        else:
            os.setxattr(path, name, value, follow_symlinks=False)

    def stamp(self) -> None:
        moment = self.chance.choice([0, 1, 1_600_000_000_123_456_789, 4_000_000_000_000_000_001])
        os.utime(self.existing(), ns=(moment, moment), follow_symlinks=False)

    def sparse(self) -> None:
        fd = self.opened(self.somewhere(), os.O_WRONLY | os.O_CREAT)
        os.ftruncate(fd, 40 * BLOCK)
        os.pwrite(fd, b"island", self.chance.randrange(40) * BLOCK + 17)
        os.close(fd)

    def replace(self) -> None:
        """A file written beside its place and moved there, as careful programs do."""
        path = self.somewhere()
        fd = self.opened(path[:-1] + b"~", os.O_WRONLY | os.O_CREAT)
        os.write(fd, self.content())
        os.close(fd)
        os.rename(path[:-1] + b"~", path)

    def opaque(self) -> None:
        """A directory removed and made again at once: on an overlay it hides the one below."""
        path = self.directory()
        if path == self.root:
            return
        shutil.rmtree(path)
        os.mkdir(path)
        with open(os.path.join(path, b"new"), "wb") as file:
            file.write(self.content())
