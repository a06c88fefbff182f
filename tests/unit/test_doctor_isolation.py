# SPDX-License-Identifier: Apache-2.0
"""Probes that answer, raise, die and hang, side by side: each is told, none takes another down."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from pathlib import Path

import psutil

from shim.doctor import facts as f
from shim.doctor.diagnosis import diagnose
from shim.doctor.isolation import Outcome, Task, run_all
from shim.doctor.model import PROBE_DEADLINE_S, Check, Part, State, Verdict, ok
from shim.settings import Settings

LONG_S = 3600.0


def outcomes(**tasks: Task) -> dict[str, Outcome]:
    return dict(run_all(tasks))


def answer(data: bytes = b"42") -> Task:
    return Task(lambda: data, PROBE_DEADLINE_S)


def hang() -> bytes:
    time.sleep(LONG_S)
    return b""


def crash() -> bytes:
    faulthandler.disable()  # pytest's would print this wanted crash
    os.kill(os.getpid(), signal.SIGSEGV)
    return b""


def refuse() -> bytes:
    raise ValueError("no such thing: ß")


def leave() -> bytes:
    os._exit(9)


def test_one_answers_beside_one_that_raises_one_that_dies_and_one_that_hangs() -> None:
    seen = outcomes(
        hangs=Task(hang, 0.3),
        raises=Task(refuse, PROBE_DEADLINE_S),
        dies=Task(crash, PROBE_DEADLINE_S),
        leaves=Task(leave, PROBE_DEADLINE_S),
        answers=answer(),
    )
    assert seen["answers"] == Outcome(data=b"42")
    assert seen["raises"].problem == "ValueError: no such thing: ß"
    assert seen["hangs"].problem == "no answer within 0.3 s"
    # A crash in C, as far as it can be told: killing its group may win the race for its status.
    assert "died" in seen["dies"].problem
    assert seen["leaves"].problem


def test_a_large_answer_comes_whole() -> None:
    data = b"x" * (4 << 20)
    assert outcomes(one=answer(data), other=answer(b""))["one"].data == data


def test_more_probes_than_run_at_once_all_answer() -> None:
    seen = outcomes(**{str(n): answer(str(n).encode()) for n in range(20)})
    assert {int(outcome.data) for outcome in seen.values()} == set(range(20))


def test_no_probes_are_no_outcomes() -> None:
    assert outcomes() == {}


def test_what_a_hanging_probe_started_ends_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def start_another() -> bytes:
        pid = os.spawnv(
            os.P_NOWAIT, sys.executable, ["python", "-c", "import time; time.sleep(60)"]
        )
        note.write_text(str(pid))
        return hang()

    seen = outcomes(one=Task(start_another, 2.0))
    assert "no answer" in seen["one"].problem
    _gone(int(note.read_text()))


def test_a_caller_that_stops_listening_leaves_no_process() -> None:
    before = set(psutil.Process().children(recursive=True))
    stream = run_all({"quick": answer(), "hangs": Task(hang, LONG_S)})
    assert next(stream)[0] == "quick"
    stream.close()  # type: ignore[attr-defined]
    assert set(psutil.Process().children(recursive=True)) == before


def test_descriptors_are_closed() -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    outcomes(one=answer(), other=Task(refuse, PROBE_DEADLINE_S), late=Task(hang, 0.1))
    assert count() == before


def _gone(pid: int) -> None:
    # It is init's to reap, which may take a moment: a zombie counts as ended.
    ends_at = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < ends_at, f"process {pid} is still there"


def check(name: str, probe: object, judge: object) -> Check:
    return Check(name, name, (Part.SLEEP,), True, "why", f.Kernel, probe, judge, 5.0)  # type: ignore[arg-type]


def good(settings: Settings) -> f.Kernel:
    return f.Kernel("6.12.0", "x86_64")


def fine(facts: f.Kernel) -> Verdict:
    return ok(facts.release)


def test_facts_travel_from_the_probe_to_the_judge_and_findings_keep_their_order() -> None:
    def broken(settings: Settings) -> f.Kernel:
        raise OSError(5, "Input/output error")

    def forbidden(settings: Settings) -> f.Kernel:
        raise PermissionError(13, "Permission denied")

    def misjudge(facts: f.Kernel) -> Verdict:
        raise KeyError("surprise")

    def other_facts(settings: Settings) -> f.Cgroups:
        return f.Cgroups(())

    findings = diagnose(
        [
            check("a.broken", broken, fine),
            check("b.good", good, fine),
            check("c.misjudged", good, misjudge),
            check("d.other", other_facts, fine),
            check("e.forbidden", forbidden, fine),
        ],
        Settings(),
    )
    assert [one.id[0] for one in findings] == list("abcde")
    states = [one.state for one in findings]
    assert states == [State.UNKNOWN, State.OK, State.UNKNOWN, State.UNKNOWN, State.UNKNOWN]
    assert findings[1].found == "6.12.0"
    assert "Input/output error" in findings[0].found
    assert "surprise" in findings[2].found
    assert "report" in findings[2].remedy
    assert findings[4].remedy == "run as root"


def test_a_probe_that_checks_share_runs_once(tmp_path: Path) -> None:
    note = tmp_path / "runs"

    def counted(settings: Settings) -> f.Kernel:
        with note.open("a") as stream:
            stream.write("x")
        return f.Kernel("6.12.0", "x86_64")

    findings = diagnose([check("a.one", counted, fine), check("a.two", counted, fine)], Settings())
    assert [one.found for one in findings] == ["6.12.0", "6.12.0"]
    assert note.read_text() == "x"
