# SPDX-License-Identifier: Apache-2.0
"""The registry equals the runtime again, however calls and the reading of lists interleave."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.core.policy import Wishes
from shim.core.registry import NOBODY, Container, Registry, Sandbox, Subject


def sandbox(sandbox_id: str, name: str = "web") -> Sandbox:
    """A sandbox of the namespace "shop"."""
    return Sandbox(sandbox_id, "shop", name, f"uid-{name}")


def container(container_id: str, sandbox_id: str = "s1", name: str = "app") -> Container:
    """A container."""
    return Container(container_id, sandbox_id, name)


class ModelRuntime:
    """A runtime that makes and removes at once, while its replies and lists arrive later.

    Calls are made as kubelet makes them: nothing is used before the reply that named it.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.sandboxes: dict[str, Sandbox] = {}
        self.containers: dict[str, Container] = {}
        self.replies: list[Sandbox | Container | tuple[str, str]] = []
        self.listed_sandboxes: list[Sandbox] | None = None
        self.listed_containers: list[Container] | None = None
        self._made = 0
        self._pending: set[str] = set()

    def act(self, operation: str, index: int) -> None:
        """Carries out one operation, if it is possible just now."""
        getattr(self, operation)(index)

    def make_sandbox(self, _: int) -> None:
        """The runtime makes a sandbox."""
        self._made += 1
        made = sandbox(f"s{self._made:03d}")
        self.sandboxes[made.sandbox_id] = made
        self._owe(made, made.sandbox_id)

    def make_container(self, index: int) -> None:
        """The runtime makes a container in a sandbox whose reply has arrived."""
        usable = sorted(set(self.sandboxes) - self._pending)
        if usable:
            self._made += 1
            made = container(f"c{self._made:03d}", usable[index % len(usable)])
            self.containers[made.container_id] = made
            self._owe(made, made.container_id)

    def remove_sandbox(self, index: int) -> None:
        """The runtime removes a sandbox and its containers, whose replies have arrived."""
        busy = {c.sandbox_id for c in self.containers.values() if c.container_id in self._pending}
        usable = sorted(set(self.sandboxes) - self._pending - busy)
        if usable:
            gone = usable[index % len(usable)]
            del self.sandboxes[gone]
            for one in [c for c in self.containers.values() if c.sandbox_id == gone]:
                del self.containers[one.container_id]
            self._owe(("sandbox", gone), gone)

    def remove_container(self, index: int) -> None:
        """The runtime removes a container whose reply has arrived."""
        usable = sorted(set(self.containers) - self._pending)
        if usable:
            gone = usable[index % len(usable)]
            del self.containers[gone]
            self._owe(("container", gone), gone)

    def reply(self, index: int) -> None:
        """One of the outstanding replies arrives; they overtake each other."""
        if not self.replies:
            return
        said = self.replies.pop(index % len(self.replies))
        if isinstance(said, Sandbox):
            self._pending.discard(said.sandbox_id)
            self.registry.add_sandbox(said)
        elif isinstance(said, Container):
            self._pending.discard(said.container_id)
            self.registry.add_container(said)
        elif said[0] == "sandbox":
            self.registry.forget_sandbox(said[1])
        else:
            self.registry.forget_container(said[1])

    def begin(self, _: int) -> None:
        """A rebuild begins; one that was under way has failed."""
        self.registry.begin_rebuild()
        self.listed_sandboxes = self.listed_containers = None
        self._begun = True

    def take(self, _: int) -> None:
        """The runtime answers the next of the two lists."""
        if getattr(self, "_begun", False):
            if self.listed_sandboxes is None:
                self.listed_sandboxes = list(self.sandboxes.values())
            elif self.listed_containers is None:
                self.listed_containers = list(self.containers.values())

    def deliver(self, _: int) -> None:
        """Both lists have arrived."""
        if self.listed_sandboxes is not None and self.listed_containers is not None:
            self.registry.rebuild(self.listed_sandboxes, self.listed_containers)
            self.listed_sandboxes = self.listed_containers = None
            self._begun = False

    def finish(self) -> None:
        """Everything that is under way arrives."""
        while self.replies:
            self.reply(0)
        self.take(0)
        self.take(0)
        self.deliver(0)

    def _owe(self, said: Sandbox | Container | tuple[str, str], about: str) -> None:
        self.replies.append(said)
        self._pending.add(about)


OPERATIONS = (
    "make_sandbox", "make_container", "remove_sandbox", "remove_container",
    "reply", "reply", "reply", "begin", "take", "take", "deliver",
)  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 9)), max_size=60))
def test_every_interleaving_ends_with_what_the_runtime_has(steps: list[tuple[str, int]]) -> None:
    registry = Registry()
    runtime = ModelRuntime(registry)
    for operation, index in steps:
        runtime.act(operation, index)
    runtime.finish()
    assert {s.sandbox_id for s in registry.sandboxes} == set(runtime.sandboxes)
    assert {c.container_id for c in registry.containers} == set(runtime.containers)


@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 9)), max_size=60))
def test_a_rebuild_repairs_any_memory(steps: list[tuple[str, int]]) -> None:
    """Also one whose replies never came, such as after a restart of ours."""
    registry = Registry()
    runtime = ModelRuntime(registry)
    for operation, index in steps:
        runtime.act(operation, index)
    registry.doubt()
    registry.begin_rebuild()
    registry.rebuild(runtime.sandboxes.values(), runtime.containers.values())
    assert {s.sandbox_id for s in registry.sandboxes} == set(runtime.sandboxes)
    assert {c.container_id for c in registry.containers} == set(runtime.containers)
    assert registry.complete


def test_what_a_call_changed_since_the_list_was_asked_for_is_newer_than_the_list() -> None:
    registry = Registry()
    registry.add_container(container("old"))
    registry.begin_rebuild()
    registry.add_container(container("new"))
    registry.forget_container("old")
    registry.rebuild([], [container("old")])
    assert [c.container_id for c in registry.containers] == ["new"]


def test_a_sandbox_removed_during_a_rebuild_takes_containers_never_heard_of_with_it() -> None:
    registry = Registry()
    registry.begin_rebuild()
    registry.forget_sandbox("s1")
    registry.rebuild([sandbox("s1")], [container("c1", "s1")])
    assert list(registry.sandboxes) == []
    assert list(registry.containers) == []


def test_forgetting_a_sandbox_forgets_its_containers_only() -> None:
    registry = Registry()
    for one in ("s1", "s2"):
        registry.add_sandbox(sandbox(one))
        registry.add_container(container(f"c-{one}", one))
    registry.forget_sandbox("s1")
    assert [c.container_id for c in registry.containers] == ["c-s2"]


def test_forgetting_the_unknown_is_no_error() -> None:
    registry = Registry()
    registry.forget_sandbox("never")
    registry.forget_container("never")
    assert registry.of_container("never") is NOBODY


def test_doubt_keeps_the_memory() -> None:
    registry = Registry()
    registry.rebuild([sandbox("s1")], [container("c1")])
    registry.doubt()
    assert not registry.complete
    assert registry.of_container("c1").pod == "shop/web"


@dataclass
class Known:
    """A registry with three containers of two sandboxes."""

    registry: Registry = field(default_factory=Registry)

    def __post_init__(self) -> None:
        self.registry.rebuild(
            [sandbox("5aa0"), sandbox("5ab1", "db")],
            [container("c0ffee", "5aa0"), container("c0c0a0", "5aa0"), container("7ea000", "5ab1")],
        )


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("c0ffee", "c0ffee"),
        ("c0f", "c0ffee"),
        ("7", "7ea000"),
        ("c0", None),
        ("", None),
        ("c0ffee0", None),
        ("C0FF", None),
    ],
)
def test_container_ids_may_be_shortened_while_unique(asked: str, found: str | None) -> None:
    subject = Known().registry.of_container(asked)
    assert (subject.container.container_id if subject.container else None) == found


@pytest.mark.parametrize(
    ("asked", "pod"), [("5aa", "shop/web"), ("5ab1", "shop/db"), ("5a", ""), ("", "")]
)
def test_sandbox_ids_may_be_shortened_while_unique(asked: str, pod: str) -> None:
    assert Known().registry.of_sandbox(asked).pod == pod


@given(st.lists(st.text("0ab", min_size=4, max_size=4), unique=True, max_size=20), st.data())
def test_a_shortened_id_means_the_one_that_starts_so(ids: list[str], data: st.DataObject) -> None:
    registry = Registry()
    registry.rebuild([], [container(one) for one in ids])
    asked = data.draw(st.text("0ab", min_size=1, max_size=4))
    fitting = [one for one in ids if one.startswith(asked)]
    found = registry.of_container(asked).container
    assert (found.container_id if found else None) == (fitting[0] if len(fitting) == 1 else None)


def test_removal_by_a_shortened_id_forgets_the_whole() -> None:
    known = Known().registry
    known.forget_container("c0f")
    known.forget_sandbox("5ab")
    assert [c.container_id for c in known.containers] == ["c0c0a0"]
    assert [s.sandbox_id for s in known.sandboxes] == ["5aa0"]


def test_removal_by_a_shortened_id_outlasts_a_rebuild_under_way() -> None:
    known = Known().registry
    known.begin_rebuild()
    known.forget_container("c0f")
    known.rebuild([], [container("c0ffee", "5aa0")])
    assert list(known.containers) == []


def test_a_container_whose_sandbox_is_unknown_has_no_pod() -> None:
    registry = Registry()
    registry.add_container(container("c1", "gone"))
    subject = registry.of_container("c1")
    assert subject == Subject(None, container("c1", "gone"))
    assert subject.pod == ""


def test_wishes_are_kept_with_the_sandbox() -> None:
    registry = Registry()
    wishes = Wishes(managed=True)
    registry.add_sandbox(Sandbox("s1", "a", "b", "u", wishes=wishes))
    kept = registry.of_sandbox("s1").sandbox
    assert kept is not None
    assert kept.wishes == wishes
