# SPDX-License-Identifier: Apache-2.0
"""Which calls have to wait and for how long: holds by pod, container and method, with an expiry.

A hold lives in memory only: when the process dies its callers see Unavailable and ask again, and
a hold that must survive belongs into a journal. Time is given by the caller, in seconds of any
clock that does not jump.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from shim.core.registry import Subject
from shim.errors import InvalidInput, NotFound

LONGEST_S = 3600.0
HOLDABLE = frozenset({"RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer",
                      "StopPodSandbox", "RemoveContainer", "RemovePodSandbox", "ExecSync", "Exec",
                      "Attach", "PortForward"})  # fmt: skip


@dataclass(slots=True)
class HeldCalls:
    """One hold.

    Attributes:
        hold_id: names it to `release`.
        pod: namespace/name.
        container: its name, "" for all of the pod.
        methods: short method names.
        until_s: when it ends by itself.
        waiting: ids of the calls that wait now.
    """

    hold_id: str
    pod: str
    container: str
    methods: frozenset[str]
    until_s: float
    waiting: set[int] = field(default_factory=set)

    def concerns(self, method: str, subject: Subject) -> bool:
        """Whether a call has to wait for this hold."""
        if method not in self.methods or subject.pod != self.pod:
            return False
        if not self.container or subject.container is None:
            return not self.container
        return subject.container.name == self.container


class Holds:
    """All holds of the service.

    Args:
        origin: first part of the ids made here; holds of a predecessor keep theirs, so it must
            differ between processes.
    """

    def __init__(self, origin: str = "hold") -> None:
        self._origin = origin
        self._holds: dict[str, HeldCalls] = {}
        self._made = 0

    def __iter__(self) -> Iterator[HeldCalls]:
        return iter(self._holds.values())

    def add(
        self,
        pod: str,
        container: str,
        methods: Iterable[str],
        at_most_s: float,
        now_s: float,
        *,
        hold_id: str = "",
    ) -> HeldCalls:
        """Makes a hold, under a new id unless one is given.

        Raises:
            InvalidInput: the pod is not "namespace/name", a method cannot be held, the time is not
                within 0 and LONGEST_S, or the given id is taken.
        """
        namespace, _, name = pod.partition("/")
        if not namespace or not name or "/" in name:
            raise InvalidInput(f"pod is {pod!r}, wanted is 'namespace/name'", where="hold")
        chosen = frozenset(methods)
        if not chosen or not chosen <= HOLDABLE:
            wrong = ", ".join(sorted(chosen - HOLDABLE)) or "none given"
            raise InvalidInput(
                f"cannot hold {wrong}",
                where="hold",
                remedy=f"choose of {', '.join(sorted(HOLDABLE))}",
            )
        if not 0 < at_most_s <= LONGEST_S:
            raise InvalidInput(
                f"time is {at_most_s:g} s, wanted is more than 0 and at most {LONGEST_S:g} s",
                where="hold",
            )
        if hold_id in self._holds:
            raise InvalidInput(f"hold {hold_id!r} is there already", where="hold")
        while not hold_id or hold_id in self._holds:
            self._made += 1
            hold_id = f"{self._origin}-{self._made}"
        hold = HeldCalls(hold_id, pod, container, chosen, now_s + at_most_s)
        self._holds[hold.hold_id] = hold
        return hold

    def remove(self, hold_id: str) -> HeldCalls:
        """Ends a hold.

        Raises:
            NotFound: there is none of that id.
        """
        hold = self._holds.pop(hold_id, None)
        if hold is None:
            known = ", ".join(sorted(self._holds)) or "there are none"
            raise NotFound(f"no hold {hold_id!r}", where="release", remedy=f"known holds: {known}")
        return hold

    def expire(self, now_s: float) -> list[HeldCalls]:
        """Removes and returns the holds whose time is over."""
        over = [hold for hold in self._holds.values() if hold.until_s <= now_s]
        for hold in over:
            del self._holds[hold.hold_id]
        return over

    def of(self, method: str, subject: Subject) -> HeldCalls | None:
        """The hold a call has to wait for, the oldest if there are several."""
        return next((h for h in self._holds.values() if h.concerns(method, subject)), None)
