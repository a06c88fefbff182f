from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("version", "pid", "uptime_s", "listen", "runtime", "backend", "calls_in_flight", "calls_total", "rss_bytes", "sandboxes", "containers", "registry_complete", "methods", "rules", "holds", "phase")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    LISTEN_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    CALLS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    CALLS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    SANDBOXES_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    version: str
    pid: int
    uptime_s: float
    listen: str
    runtime: str
    backend: Backend
    calls_in_flight: int
    calls_total: int
    rss_bytes: int
    sandboxes: int
    containers: int
    registry_complete: bool
    methods: _containers.RepeatedCompositeFieldContainer[MethodFigures]
    rules: _containers.RepeatedCompositeFieldContainer[RuleFigures]
    holds: _containers.RepeatedCompositeFieldContainer[HoldState]
    phase: str
    def __init__(self, version: _Optional[str] = ..., pid: _Optional[int] = ..., uptime_s: _Optional[float] = ..., listen: _Optional[str] = ..., runtime: _Optional[str] = ..., backend: _Optional[_Union[Backend, _Mapping]] = ..., calls_in_flight: _Optional[int] = ..., calls_total: _Optional[int] = ..., rss_bytes: _Optional[int] = ..., sandboxes: _Optional[int] = ..., containers: _Optional[int] = ..., registry_complete: _Optional[bool] = ..., methods: _Optional[_Iterable[_Union[MethodFigures, _Mapping]]] = ..., rules: _Optional[_Iterable[_Union[RuleFigures, _Mapping]]] = ..., holds: _Optional[_Iterable[_Union[HoldState, _Mapping]]] = ..., phase: _Optional[str] = ...) -> None: ...

class Backend(_message.Message):
    __slots__ = ("answers", "name", "version", "error")
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    answers: bool
    name: str
    version: str
    error: str
    def __init__(self, answers: _Optional[bool] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class MethodFigures(_message.Message):
    __slots__ = ("method", "calls", "errors", "ours_p50_us", "backend_p50_us", "ours_p99_us", "backend_p99_us")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    OURS_P50_US_FIELD_NUMBER: _ClassVar[int]
    BACKEND_P50_US_FIELD_NUMBER: _ClassVar[int]
    OURS_P99_US_FIELD_NUMBER: _ClassVar[int]
    BACKEND_P99_US_FIELD_NUMBER: _ClassVar[int]
    method: str
    calls: int
    errors: int
    ours_p50_us: float
    backend_p50_us: float
    ours_p99_us: float
    backend_p99_us: float
    def __init__(self, method: _Optional[str] = ..., calls: _Optional[int] = ..., errors: _Optional[int] = ..., ours_p50_us: _Optional[float] = ..., backend_p50_us: _Optional[float] = ..., ours_p99_us: _Optional[float] = ..., backend_p99_us: _Optional[float] = ...) -> None: ...

class RuleFigures(_message.Message):
    __slots__ = ("rule", "outcomes")
    class OutcomesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    RULE_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    rule: str
    outcomes: _containers.ScalarMap[str, int]
    def __init__(self, rule: _Optional[str] = ..., outcomes: _Optional[_Mapping[str, int]] = ...) -> None: ...

class WatchCallsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchCallsResponse(_message.Message):
    __slots__ = ("call_id", "method", "pod", "container", "ended", "code", "took_ms", "backend_ms", "request_bytes", "reply_bytes", "missed")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    BACKEND_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    method: str
    pod: str
    container: str
    ended: bool
    code: str
    took_ms: float
    backend_ms: float
    request_bytes: int
    reply_bytes: int
    missed: int
    def __init__(self, call_id: _Optional[int] = ..., method: _Optional[str] = ..., pod: _Optional[str] = ..., container: _Optional[str] = ..., ended: _Optional[bool] = ..., code: _Optional[str] = ..., took_ms: _Optional[float] = ..., backend_ms: _Optional[float] = ..., request_bytes: _Optional[int] = ..., reply_bytes: _Optional[int] = ..., missed: _Optional[int] = ...) -> None: ...

class HoldRequest(_message.Message):
    __slots__ = ("pod", "container", "methods", "at_most_s")
    POD_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    AT_MOST_S_FIELD_NUMBER: _ClassVar[int]
    pod: str
    container: str
    methods: _containers.RepeatedScalarFieldContainer[str]
    at_most_s: float
    def __init__(self, pod: _Optional[str] = ..., container: _Optional[str] = ..., methods: _Optional[_Iterable[str]] = ..., at_most_s: _Optional[float] = ...) -> None: ...

class HoldResponse(_message.Message):
    __slots__ = ("hold_id",)
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    hold_id: str
    def __init__(self, hold_id: _Optional[str] = ...) -> None: ...

class HoldState(_message.Message):
    __slots__ = ("hold_id", "pod", "container", "methods", "remaining_s", "waiting")
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    REMAINING_S_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    hold_id: str
    pod: str
    container: str
    methods: _containers.RepeatedScalarFieldContainer[str]
    remaining_s: float
    waiting: int
    def __init__(self, hold_id: _Optional[str] = ..., pod: _Optional[str] = ..., container: _Optional[str] = ..., methods: _Optional[_Iterable[str]] = ..., remaining_s: _Optional[float] = ..., waiting: _Optional[int] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("hold_id",)
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    hold_id: str
    def __init__(self, hold_id: _Optional[str] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("released",)
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    released: int
    def __init__(self, released: _Optional[int] = ...) -> None: ...

class StartSuccessorRequest(_message.Message):
    __slots__ = ("at_most_s",)
    AT_MOST_S_FIELD_NUMBER: _ClassVar[int]
    at_most_s: float
    def __init__(self, at_most_s: _Optional[float] = ...) -> None: ...

class StartSuccessorResponse(_message.Message):
    __slots__ = ("successor_pid",)
    SUCCESSOR_PID_FIELD_NUMBER: _ClassVar[int]
    successor_pid: int
    def __init__(self, successor_pid: _Optional[int] = ...) -> None: ...

class RetireRequest(_message.Message):
    __slots__ = ("successor_pid",)
    SUCCESSOR_PID_FIELD_NUMBER: _ClassVar[int]
    successor_pid: int
    def __init__(self, successor_pid: _Optional[int] = ...) -> None: ...

class RetireResponse(_message.Message):
    __slots__ = ("calls_in_flight",)
    CALLS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    calls_in_flight: int
    def __init__(self, calls_in_flight: _Optional[int] = ...) -> None: ...

class SleepRequest(_message.Message):
    __slots__ = ("pod",)
    POD_FIELD_NUMBER: _ClassVar[int]
    pod: str
    def __init__(self, pod: _Optional[str] = ...) -> None: ...

class SleepResponse(_message.Message):
    __slots__ = ("containers",)
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    containers: _containers.RepeatedCompositeFieldContainer[SleptContainer]
    def __init__(self, containers: _Optional[_Iterable[_Union[SleptContainer, _Mapping]]] = ...) -> None: ...

class SleptContainer(_message.Message):
    __slots__ = ("name", "frozen_ms", "took_ms", "image_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FROZEN_MS_FIELD_NUMBER: _ClassVar[int]
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    frozen_ms: float
    took_ms: float
    image_bytes: int
    def __init__(self, name: _Optional[str] = ..., frozen_ms: _Optional[float] = ..., took_ms: _Optional[float] = ..., image_bytes: _Optional[int] = ...) -> None: ...

class WakeRequest(_message.Message):
    __slots__ = ("pod",)
    POD_FIELD_NUMBER: _ClassVar[int]
    pod: str
    def __init__(self, pod: _Optional[str] = ...) -> None: ...

class WakeResponse(_message.Message):
    __slots__ = ("took_ms",)
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    took_ms: float
    def __init__(self, took_ms: _Optional[float] = ...) -> None: ...

class PodsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PodsResponse(_message.Message):
    __slots__ = ("pods",)
    PODS_FIELD_NUMBER: _ClassVar[int]
    pods: _containers.RepeatedCompositeFieldContainer[PodState]
    def __init__(self, pods: _Optional[_Iterable[_Union[PodState, _Mapping]]] = ...) -> None: ...

class PodState(_message.Message):
    __slots__ = ("pod", "uid", "sandbox_id", "state", "managed", "memory_bytes", "image_bytes", "asleep_s", "sleeps", "wakes", "last_wake_ms", "last_wake_cause", "containers")
    POD_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MANAGED_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ASLEEP_S_FIELD_NUMBER: _ClassVar[int]
    SLEEPS_FIELD_NUMBER: _ClassVar[int]
    WAKES_FIELD_NUMBER: _ClassVar[int]
    LAST_WAKE_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_WAKE_CAUSE_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    pod: str
    uid: str
    sandbox_id: str
    state: str
    managed: bool
    memory_bytes: int
    image_bytes: int
    asleep_s: float
    sleeps: int
    wakes: int
    last_wake_ms: float
    last_wake_cause: str
    containers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, pod: _Optional[str] = ..., uid: _Optional[str] = ..., sandbox_id: _Optional[str] = ..., state: _Optional[str] = ..., managed: _Optional[bool] = ..., memory_bytes: _Optional[int] = ..., image_bytes: _Optional[int] = ..., asleep_s: _Optional[float] = ..., sleeps: _Optional[int] = ..., wakes: _Optional[int] = ..., last_wake_ms: _Optional[float] = ..., last_wake_cause: _Optional[str] = ..., containers: _Optional[_Iterable[str]] = ...) -> None: ...

class MigrateRequest(_message.Message):
    __slots__ = ("pod", "node", "dry_run", "claim")
    POD_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    pod: str
    node: str
    dry_run: bool
    claim: bool
    def __init__(self, pod: _Optional[str] = ..., node: _Optional[str] = ..., dry_run: _Optional[bool] = ..., claim: _Optional[bool] = ...) -> None: ...

class MigrateResponse(_message.Message):
    __slots__ = ("phase", "text", "at_s", "move", "result")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    AT_S_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    phase: str
    text: str
    at_s: float
    move: str
    result: str
    def __init__(self, phase: _Optional[str] = ..., text: _Optional[str] = ..., at_s: _Optional[float] = ..., move: _Optional[str] = ..., result: _Optional[str] = ...) -> None: ...

class MigrationsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MigrationsResponse(_message.Message):
    __slots__ = ("moves",)
    MOVES_FIELD_NUMBER: _ClassVar[int]
    moves: _containers.RepeatedCompositeFieldContainer[MoveState]
    def __init__(self, moves: _Optional[_Iterable[_Union[MoveState, _Mapping]]] = ...) -> None: ...

class MoveState(_message.Message):
    __slots__ = ("move", "pod", "direction", "node", "step", "epoch", "lineage", "since_s", "reason", "figures")
    MOVE_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    SINCE_S_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    move: str
    pod: str
    direction: str
    node: str
    step: str
    epoch: int
    lineage: str
    since_s: float
    reason: str
    figures: str
    def __init__(self, move: _Optional[str] = ..., pod: _Optional[str] = ..., direction: _Optional[str] = ..., node: _Optional[str] = ..., step: _Optional[str] = ..., epoch: _Optional[int] = ..., lineage: _Optional[str] = ..., since_s: _Optional[float] = ..., reason: _Optional[str] = ..., figures: _Optional[str] = ...) -> None: ...

class AbortRequest(_message.Message):
    __slots__ = ("move",)
    MOVE_FIELD_NUMBER: _ClassVar[int]
    move: str
    def __init__(self, move: _Optional[str] = ...) -> None: ...

class AbortResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResolveRequest(_message.Message):
    __slots__ = ("move", "runs")
    MOVE_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    move: str
    runs: str
    def __init__(self, move: _Optional[str] = ..., runs: _Optional[str] = ...) -> None: ...

class ResolveResponse(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: str
    def __init__(self, step: _Optional[str] = ...) -> None: ...
