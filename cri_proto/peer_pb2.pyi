from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HelloRequest(_message.Message):
    __slots__ = ("node", "version")
    NODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    node: str
    version: str
    def __init__(self, node: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class HelloResponse(_message.Message):
    __slots__ = ("node", "version", "kernel", "machine", "criu_version", "cpu_flags", "free_memory_bytes", "has_monitors")
    NODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    CRIU_VERSION_FIELD_NUMBER: _ClassVar[int]
    CPU_FLAGS_FIELD_NUMBER: _ClassVar[int]
    FREE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    HAS_MONITORS_FIELD_NUMBER: _ClassVar[int]
    node: str
    version: str
    kernel: str
    machine: str
    criu_version: str
    cpu_flags: _containers.RepeatedScalarFieldContainer[str]
    free_memory_bytes: int
    has_monitors: bool
    def __init__(self, node: _Optional[str] = ..., version: _Optional[str] = ..., kernel: _Optional[str] = ..., machine: _Optional[str] = ..., criu_version: _Optional[str] = ..., cpu_flags: _Optional[_Iterable[str]] = ..., free_memory_bytes: _Optional[int] = ..., has_monitors: _Optional[bool] = ...) -> None: ...

class Container(_message.Message):
    __slots__ = ("name", "create_request", "image_ref", "finished", "sleeper")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    IMAGE_REF_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    SLEEPER_FIELD_NUMBER: _ClassVar[int]
    name: str
    create_request: bytes
    image_ref: str
    finished: bool
    sleeper: bytes
    def __init__(self, name: _Optional[str] = ..., create_request: _Optional[bytes] = ..., image_ref: _Optional[str] = ..., finished: _Optional[bool] = ..., sleeper: _Optional[bytes] = ...) -> None: ...

class OfferRequest(_message.Message):
    __slots__ = ("move", "lineage", "epoch", "source", "pod", "uid", "run_request", "containers", "addresses", "resident_bytes", "labels", "by_kubelet", "claim_deadline_s", "pod_files")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MOVE_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    RUN_REQUEST_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    BY_KUBELET_FIELD_NUMBER: _ClassVar[int]
    CLAIM_DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    POD_FILES_FIELD_NUMBER: _ClassVar[int]
    move: str
    lineage: str
    epoch: int
    source: str
    pod: str
    uid: str
    run_request: bytes
    containers: _containers.RepeatedCompositeFieldContainer[Container]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    resident_bytes: int
    labels: _containers.ScalarMap[str, str]
    by_kubelet: bool
    claim_deadline_s: float
    pod_files: bytes
    def __init__(self, move: _Optional[str] = ..., lineage: _Optional[str] = ..., epoch: _Optional[int] = ..., source: _Optional[str] = ..., pod: _Optional[str] = ..., uid: _Optional[str] = ..., run_request: _Optional[bytes] = ..., containers: _Optional[_Iterable[_Union[Container, _Mapping]]] = ..., addresses: _Optional[_Iterable[str]] = ..., resident_bytes: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., by_kubelet: _Optional[bool] = ..., claim_deadline_s: _Optional[float] = ..., pod_files: _Optional[bytes] = ...) -> None: ...

class OfferResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PrepareRequest(_message.Message):
    __slots__ = ("move",)
    MOVE_FIELD_NUMBER: _ClassVar[int]
    move: str
    def __init__(self, move: _Optional[str] = ...) -> None: ...

class PreparedContainer(_message.Message):
    __slots__ = ("name", "container_id", "page_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    container_id: str
    page_token: bytes
    def __init__(self, name: _Optional[str] = ..., container_id: _Optional[str] = ..., page_token: _Optional[bytes] = ...) -> None: ...

class PrepareResponse(_message.Message):
    __slots__ = ("uid", "sandbox_id", "address", "containers", "pages_port")
    UID_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    PAGES_PORT_FIELD_NUMBER: _ClassVar[int]
    uid: str
    sandbox_id: str
    address: str
    containers: _containers.RepeatedCompositeFieldContainer[PreparedContainer]
    pages_port: int
    def __init__(self, uid: _Optional[str] = ..., sandbox_id: _Optional[str] = ..., address: _Optional[str] = ..., containers: _Optional[_Iterable[_Union[PreparedContainer, _Mapping]]] = ..., pages_port: _Optional[int] = ...) -> None: ...

class FilesRequest(_message.Message):
    __slots__ = ("move", "tree", "frame")
    MOVE_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    move: str
    tree: str
    frame: bytes
    def __init__(self, move: _Optional[str] = ..., tree: _Optional[str] = ..., frame: _Optional[bytes] = ...) -> None: ...

class FilesResponse(_message.Message):
    __slots__ = ("entries", "content_bytes", "digest")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    CONTENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    entries: int
    content_bytes: int
    digest: bytes
    def __init__(self, entries: _Optional[int] = ..., content_bytes: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class StagedContainer(_message.Message):
    __slots__ = ("name", "sleeper", "pages")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SLEEPER_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    name: str
    sleeper: bytes
    pages: int
    def __init__(self, name: _Optional[str] = ..., sleeper: _Optional[bytes] = ..., pages: _Optional[int] = ...) -> None: ...

class StageRequest(_message.Message):
    __slots__ = ("move", "epoch", "containers", "flows")
    MOVE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    FLOWS_FIELD_NUMBER: _ClassVar[int]
    move: str
    epoch: int
    containers: _containers.RepeatedCompositeFieldContainer[StagedContainer]
    flows: bytes
    def __init__(self, move: _Optional[str] = ..., epoch: _Optional[int] = ..., containers: _Optional[_Iterable[_Union[StagedContainer, _Mapping]]] = ..., flows: _Optional[bytes] = ...) -> None: ...

class StageResponse(_message.Message):
    __slots__ = ("seal_ms", "restore_ms")
    SEAL_MS_FIELD_NUMBER: _ClassVar[int]
    RESTORE_MS_FIELD_NUMBER: _ClassVar[int]
    seal_ms: float
    restore_ms: float
    def __init__(self, seal_ms: _Optional[float] = ..., restore_ms: _Optional[float] = ...) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("move", "epoch", "at_once")
    MOVE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    AT_ONCE_FIELD_NUMBER: _ClassVar[int]
    move: str
    epoch: int
    at_once: bool
    def __init__(self, move: _Optional[str] = ..., epoch: _Optional[int] = ..., at_once: _Optional[bool] = ...) -> None: ...

class CommitResponse(_message.Message):
    __slots__ = ("resume_ms", "criu_fork_ms", "criu_restore_ms", "criu_pages_restored")
    RESUME_MS_FIELD_NUMBER: _ClassVar[int]
    CRIU_FORK_MS_FIELD_NUMBER: _ClassVar[int]
    CRIU_RESTORE_MS_FIELD_NUMBER: _ClassVar[int]
    CRIU_PAGES_RESTORED_FIELD_NUMBER: _ClassVar[int]
    resume_ms: float
    criu_fork_ms: float
    criu_restore_ms: float
    criu_pages_restored: int
    def __init__(self, resume_ms: _Optional[float] = ..., criu_fork_ms: _Optional[float] = ..., criu_restore_ms: _Optional[float] = ..., criu_pages_restored: _Optional[int] = ...) -> None: ...

class DropRequest(_message.Message):
    __slots__ = ("move", "epoch", "reason")
    MOVE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    move: str
    epoch: int
    reason: str
    def __init__(self, move: _Optional[str] = ..., epoch: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class DropResponse(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: str
    def __init__(self, step: _Optional[str] = ...) -> None: ...

class AskRequest(_message.Message):
    __slots__ = ("move", "epoch", "as_source")
    MOVE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    AS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    move: str
    epoch: int
    as_source: bool
    def __init__(self, move: _Optional[str] = ..., epoch: _Optional[int] = ..., as_source: _Optional[bool] = ...) -> None: ...

class AskResponse(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: str
    def __init__(self, step: _Optional[str] = ...) -> None: ...

class PointRequest(_message.Message):
    __slots__ = ("lineage", "epoch", "node", "addresses", "clear")
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    CLEAR_FIELD_NUMBER: _ClassVar[int]
    lineage: str
    epoch: int
    node: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    clear: bool
    def __init__(self, lineage: _Optional[str] = ..., epoch: _Optional[int] = ..., node: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., clear: _Optional[bool] = ...) -> None: ...

class PointResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
