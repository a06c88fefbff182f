# SPDX-License-Identifier: Apache-2.0
"""The service with test rules behind its own, or without a codec, chosen by the environment.

``ODD=edit`` edits requests and replies, ``ODD=break`` raises in every rule step that can raise,
``ODD=nocodec`` makes any decoding or encoding an error.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

from shim.cli import main
from shim.core.methods import RUNTIME
from shim.core.rules import CHANGED, PASS, BaseRule, Call, RuleBook
from shim.server import codec, service

SECRET = "secret-of-the-rule"
"""What a rule has seen and must not tell."""


class Edit(BaseRule):
    """Changes one field of requests and replies."""

    name = "edit"
    methods = (RUNTIME + "RunPodSandbox", RUNTIME + "CreateContainer", RUNTIME + "ExecSync")

    def on_request(self, call: Call) -> Any:
        """Adds an annotation; leaves ExecSync alone."""
        if call.method.endswith("ExecSync"):
            return PASS
        call.request.config.annotations["edited"] = "yes"
        return CHANGED

    def on_reply(self, call: Call, reply: Any) -> Any:
        """Changes the exit code of ExecSync."""
        if not call.method.endswith("ExecSync"):
            return PASS
        reply.exit_code = 42
        return CHANGED


class Break(BaseRule):
    """Edits a request half-way and then raises; raises on replies and errors too."""

    name = "break"
    methods = (RUNTIME + "RunPodSandbox", RUNTIME + "StopContainer", RUNTIME + "RemoveContainer")

    def on_request(self, call: Call) -> Any:
        """Breaks, except on RemoveContainer, which is for `on_reply` and `on_error`."""
        if call.method.endswith("RemoveContainer"):
            return PASS
        if call.method.endswith("RunPodSandbox"):
            call.request.config.annotations["half"] = "done"
        raise KeyError(SECRET)

    def on_reply(self, call: Call, reply: Any) -> NoReturn:
        """Breaks."""
        raise ZeroDivisionError

    def on_error(self, call: Call, code: int) -> NoReturn:
        """Breaks."""
        raise ZeroDivisionError


def _no_codec(*_: object) -> NoReturn:
    raise RuntimeError("the codec was used")


def _arm(kind: str) -> None:
    if kind == "nocodec":
        for name in ("decode_request", "decode_reply", "encode"):
            setattr(codec, name, _no_codec)
        return
    rule = {"edit": Edit, "break": Break}[kind]()
    own_book = RuleBook
    service.RuleBook = lambda rules: own_book([*rules, rule])  # type: ignore[assignment,misc]


if __name__ == "__main__":
    _arm(os.environ["ODD"])
    main.main()
