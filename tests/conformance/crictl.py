# SPDX-License-Identifier: Apache-2.0
"""Runs crictl's streams against containerd and through podferry; both must say the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import shlex
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cri_proto import runtime_v1_pb2 as pb
from tests.conformance import binary, calls
from tests.testbed import containerd, images, service, testbed
from tests.testbed.cri import CriClient
from tests.testbed.errors import NodeFailed
from tests.testbed.node import Node
from tests.testbed.process import POLL_S, Result

DIRECTORY = "/var/lib/node/conformance/crictl"
BULK = random.Random(1).randbytes(4 << 20)
FORWARDED = 18080
DEADLINE_S = 60.0
# A container that ends just while it is stopped: containerd 2.1.9 then says "ttrpc: closed" once
# (3 of 40 times on its own socket).
STOP_ATTEMPTS = 3
# containerd 2.1 refuses crictl's websockets; what matters here is that it does so in one way.
TRANSPORTS = ("spdy", "websocket")
# In the order that a pod with one container goes through them.
EVENTS = ["CONTAINER_CREATED_EVENT", "CONTAINER_STARTED_EVENT", "CONTAINER_STOPPED_EVENT"]

ID = re.compile(r"[0-9a-f]{64}")

Answers = dict[str, Any]


class Crictl:
    """crictl on a node, on one socket.

    Args:
        node: where.
        program: its path on the node.
        socket: the CRI socket as a path of the node.
    """

    def __init__(self, node: Node, program: str, socket: str) -> None:
        self.node = node
        self.socket = socket
        endpoint = f"unix://{socket}"
        self._argv = [program, "--config=/dev/null", f"-r={endpoint}", f"-i={endpoint}", "-t=20s"]

    def run(self, *argv: str, stdin: bytes = b"", check: bool = True) -> Result:
        """One command to its end."""
        return self.node.exec([*self._argv, *argv], stdin=stdin, deadline_s=DEADLINE_S, check=check)

    def run_on_terminal(self, *argv: str) -> Result:
        """One command to its end, with a terminal of its own."""
        command = shlex.join([*self._argv, *argv])
        on_terminal = ["script", "--quiet", "--return", "--command", command, "/dev/null"]
        return self.node.exec(on_terminal, deadline_s=DEADLINE_S, check=False)

    @contextlib.contextmanager
    def background(self, *argv: str, into: str = "/dev/null") -> Iterator[None]:
        """A command that runs on the node until the block ends.

        Args:
            argv: the command.
            into: a file of the node that gets its output.
        """
        script = 'into=$1; shift; exec "$@" >"$into"'
        run = ["sh", "-c", script, "sh", into, *self._argv, *argv]
        daemon = self.node.daemon(f"crictl-{argv[0]}", run)
        daemon.start()
        try:
            yield
        finally:
            daemon.stop()

    def start(self, name: str, image: str, *command: str, stdin: bool = False) -> tuple[str, str]:
        """A pod with one running container; returns both ids."""
        pod = {
            "metadata": {"name": name, "uid": str(uuid.uuid4()), "namespace": "default"},
            "log_directory": f"/var/log/pods/{name}",
            # 1 is CONTAINER: processes of its own, as kubelet asks for.
            "linux": {"security_context": {"namespace_options": {"pid": 1}}},
        }
        container = {
            "metadata": {"name": "main"},
            "image": {"image": image},
            "command": list(command),
            "log_path": "main.log",
            "stdin": stdin,
            "stdin_once": stdin,
            "linux": {"security_context": {"namespace_options": {"pid": 1}}},
        }
        self.node.write(f"{DIRECTORY}/pod.json", json.dumps(pod))
        self.node.write(f"{DIRECTORY}/container.json", json.dumps(container))
        sandbox_id = self.run("runp", f"{DIRECTORY}/pod.json").text
        files = (f"{DIRECTORY}/container.json", f"{DIRECTORY}/pod.json")
        container_id = self.run("create", sandbox_id, *files).text
        self.run("start", container_id)
        return sandbox_id, container_id

    def remove(self, sandbox_id: str) -> None:
        """Stops and removes a pod, and tries again where kubelet would."""
        for attempt in reversed(range(STOP_ATTEMPTS)):
            done = self.run("stopp", sandbox_id, check=attempt == 0)
            if done.status == 0:
                break
        self.run("rmp", sandbox_id)


def answers(crictl: Crictl) -> Answers:
    """Every stream once; what came out, without what differs from run to run."""
    said: Answers = {}
    with _events(crictl) as seen:
        sandbox_id, container_id = crictl.start("streams", images.BUSYBOX, "sleep", "1000000")
        said |= _exec(crictl, container_id)
        said["url"] = _url(crictl, container_id)
        crictl.remove(sandbox_id)
        said["events"] = seen(sandbox_id, container_id)
    said["attach"] = _attach(crictl)
    said["port-forward"] = _port_forward(crictl)
    return said


def _exec(crictl: Crictl, container_id: str) -> Answers:
    sync = crictl.run("exec", "--sync", container_id, "sh", "-c", "echo out; echo err >&2")
    bad = crictl.run("exec", "--sync", container_id, "sh", "-c", "exit 7", check=False)
    said: Answers = {
        "exec sync": sync.text.split(),
        "exec sync status": _status(bad),
    }
    for transport in TRANSPORTS:
        way = f"--transport={transport}"
        bulk = crictl.run("exec", "-i", way, container_id, "cat", stdin=BULK, check=False)
        ended = crictl.run("exec", way, container_id, "sh", "-c", "exit 7", check=False)
        tty = crictl.run_on_terminal("exec", "-i", "-t", way, container_id, "tty")
        said[f"exec {transport}"] = [bulk.status, hashlib.sha256(bulk.stdout).hexdigest()]
        said[f"exec {transport} status"] = _status(ended)
        said[f"exec {transport} tty"] = [tty.status, _plain(tty.text)]
    return said


def _url(crictl: Crictl, container_id: str) -> list[str]:
    """Where the runtime says that its streaming server is; the token differs each time."""
    request = pb.ExecRequest(container_id=container_id, cmd=["true"], stdout=True)
    with CriClient(crictl.node.path(crictl.socket)) as cri:
        url = urlsplit(cri.call("Exec", request, pb.ExecResponse).url)
    return [url.scheme, url.netloc, url.path.rpartition("/")[0]]


def _attach(crictl: Crictl) -> list[Any]:
    sandbox_id, container_id = crictl.start("attached", images.BUSYBOX, "cat", stdin=True)
    back = crictl.run("attach", "-i", container_id, stdin=b"one\ntwo\n", check=False)
    crictl.remove(sandbox_id)
    return [back.status, back.text]


def _port_forward(crictl: Crictl) -> str:
    sandbox_id, _ = crictl.start("forwarded", images.NGINX)
    fetch = ["curl", "-sS", "--max-time", "5", f"http://127.0.0.1:{FORWARDED}/"]
    with crictl.background("port-forward", sandbox_id, f"{FORWARDED}:80"):
        deadline = time.monotonic() + DEADLINE_S
        while (got := crictl.node.exec(fetch, check=False)).status != 0:
            if time.monotonic() > deadline:
                raise NodeFailed(f"port-forward: {got.stderr!r}", where=crictl.socket)
            time.sleep(POLL_S)
    crictl.remove(sandbox_id)
    return got.text


@contextlib.contextmanager
def _events(crictl: Crictl) -> Iterator[Callable[[str, str], list[str]]]:
    """Subscribes; gives what tells which events came for a sandbox and its container."""
    log = f"{DIRECTORY}/events.json"
    crictl.node.path(DIRECTORY).mkdir(parents=True, exist_ok=True)
    crictl.node.write(log, b"")

    def seen(sandbox_id: str, container_id: str) -> list[str]:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            events = _concatenated(crictl.node.read(log).decode())
            mine = [one for one in events if _id(one) in (sandbox_id, container_id)]
            told = [f"{_who(one, sandbox_id)} {_kind(one)}" for one in mine]
            if "sandbox CONTAINER_DELETED_EVENT" in told or time.monotonic() > deadline:
                return told
            time.sleep(POLL_S)

    with crictl.background("events", into=log):
        # The subscription is made when the runtime has sent the events of a probe pod.
        _wait_subscribed(crictl, log)
        yield seen


def _wait_subscribed(crictl: Crictl, log: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not crictl.node.read(log):
        if time.monotonic() > deadline:
            raise NodeFailed("no event in spite of new pods", where=crictl.socket)
        sandbox_id, _ = crictl.start("probe", images.BUSYBOX, "sleep", "1000000")
        crictl.remove(sandbox_id)


def _concatenated(text: str) -> list[dict[str, Any]]:
    """JSON documents one after the other; an unfinished one at the end is left for later."""
    decoder, at = json.JSONDecoder(), 0
    found: list[dict[str, Any]] = []
    while True:
        at += len(text[at:]) - len(text[at:].lstrip())
        try:
            document, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            return found
        found.append(document)


def _id(event: dict[str, Any]) -> str:
    return str(event.get("containerId") or event.get("container_id"))


def _kind(event: dict[str, Any]) -> str:
    return str(event.get("containerEventType") or event.get("container_event_type"))


def _who(event: dict[str, Any], sandbox_id: str) -> str:
    return "sandbox" if _id(event) == sandbox_id else "container"


def _plain(said: str) -> str:
    """What a terminal showed, without ids and without the end-of-file sign that script may echo."""
    return ID.sub("ID", said.replace("^@", "").strip())


def _status(done: Result) -> list[Any]:
    """crictl's own status, and the program's as crictl tells it."""
    told = re.search(
        r"(?:exit(?:ed with| code| status)|code) (\d+)", done.stderr.decode() + done.text
    )
    return [done.status, told[1] if told else ""]


def main(program: Path, say: Callable[[str], None]) -> tuple[dict[str, Any], bool]:
    """Everything twice on a fresh node; gives the figures and whether both said the same."""
    with testbed.nodes(1) as [node]:
        service.install(node)
        with service.Shim(node):
            path = binary.put(node, program)
            direct = answers(Crictl(node, path, containerd.SOCKET))
            before = calls.status(node)
            through = answers(Crictl(node, path, service.SOCKET))
            passed_on = calls.status(node).calls - before.calls
    different = [name for name in direct if direct[name] != through[name]]
    for name in direct:
        mark = "DIFFERS" if name in different else "same"
        say(f"{name:<26}{mark}: {_shown(direct[name])}")
        if name in different:
            say(f"{'':<26}through podferry: {_shown(through[name])}")
    wrong = unexpected(direct)
    for problem in wrong:
        say(f"PROBLEM directly: {problem}")
    figures = {
        "compared": len(direct),
        "different": different,
        "unexpected": wrong,
        "calls_through_shim": dict(passed_on.most_common()),
        "answers": direct,
    }
    return figures, not different and not wrong and passed_on["Exec"] > 0


def unexpected(said: Answers) -> list[str]:
    """What even the runtime's own socket did not give: then the comparison proves little."""
    sent = hashlib.sha256(BULK).hexdigest()
    wanted = {
        "exec sync": ["out", "err"],
        "exec sync status": [1, "7"],
        "exec spdy": [0, sent],
        "exec spdy status": [1, "7"],
        "exec spdy tty": [0, "/dev/pts/0"],
        "attach": [0, "one\ntwo"],
        "port-forward": "podferry test page",
    }
    wrong = [f"{name}: {said[name]}" for name in wanted if said[name] != wanted[name]]
    told = [one.removeprefix("container ") for one in said["events"] if one.startswith("container")]
    return wrong + ([] if told[:3] == EVENTS else [f"events: {said['events']}"])


def _shown(answer: Any) -> str:
    text = json.dumps(answer)
    return text if len(text) < 200 else f"{text[:200]}..."
