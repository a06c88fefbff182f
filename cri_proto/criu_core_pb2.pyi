from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class core_entry(_message.Message):
    __slots__ = ("mtype", "thread_info")
    MTYPE_FIELD_NUMBER: _ClassVar[int]
    THREAD_INFO_FIELD_NUMBER: _ClassVar[int]
    mtype: int
    thread_info: ThreadInfoX86
    def __init__(self, mtype: _Optional[int] = ..., thread_info: _Optional[_Union[ThreadInfoX86, _Mapping]] = ...) -> None: ...

class ThreadInfoX86(_message.Message):
    __slots__ = ("gpregs",)
    GPREGS_FIELD_NUMBER: _ClassVar[int]
    gpregs: RegistersX86
    def __init__(self, gpregs: _Optional[_Union[RegistersX86, _Mapping]] = ...) -> None: ...

class RegistersX86(_message.Message):
    __slots__ = ("ax", "orig_ax", "ip", "mode")
    AX_FIELD_NUMBER: _ClassVar[int]
    ORIG_AX_FIELD_NUMBER: _ClassVar[int]
    IP_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ax: int
    orig_ax: int
    ip: int
    mode: int
    def __init__(self, ax: _Optional[int] = ..., orig_ax: _Optional[int] = ..., ip: _Optional[int] = ..., mode: _Optional[int] = ...) -> None: ...

class inventory_entry(_message.Message):
    __slots__ = ("img_version", "tcp_close")
    IMG_VERSION_FIELD_NUMBER: _ClassVar[int]
    TCP_CLOSE_FIELD_NUMBER: _ClassVar[int]
    img_version: int
    tcp_close: bool
    def __init__(self, img_version: _Optional[int] = ..., tcp_close: _Optional[bool] = ...) -> None: ...

class file_entry(_message.Message):
    __slots__ = ("type", "id", "isk")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ISK_FIELD_NUMBER: _ClassVar[int]
    type: int
    id: int
    isk: InetSocket
    def __init__(self, type: _Optional[int] = ..., id: _Optional[int] = ..., isk: _Optional[_Union[InetSocket, _Mapping]] = ...) -> None: ...

class InetSocket(_message.Message):
    __slots__ = ("proto", "state", "src_port", "dst_port")
    PROTO_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SRC_PORT_FIELD_NUMBER: _ClassVar[int]
    DST_PORT_FIELD_NUMBER: _ClassVar[int]
    proto: int
    state: int
    src_port: int
    dst_port: int
    def __init__(self, proto: _Optional[int] = ..., state: _Optional[int] = ..., src_port: _Optional[int] = ..., dst_port: _Optional[int] = ...) -> None: ...
