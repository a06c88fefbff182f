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
