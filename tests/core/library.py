# SPDX-License-Identifier: Apache-2.0
"""The core, compiled for user space, as a Python object. MPSAFE_CORE_SANITIZE=1: with the sanitizers in it."""

import os
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from types import ModuleType
from typing import Any, Final, TypeAlias

from driver_patches.user.build import MODULE, SANITIZE, extension

__all__ = ["GPUS", "SANITIZED", "Core", "Fields", "Sight", "Value", "Who", "compiled"]

SANITIZED: Final = os.environ.get("MPSAFE_CORE_SANITIZE") == "1"
GPUS: Final = tuple(bytes([number]) * 16 for number in (7, 200))

Value: TypeAlias = int | bytes | tuple[int, ...]
Fields: TypeAlias = dict[str, Value]

_STRUCTS: Final = {
    "hello": "hello",
    "policy_set": "policy",
    "policy_get": "policy",
    "client_next": "client",
    "client_mode": "client_mode",
    "stats": "stats",
    "answer": "answer",
    "inject": "inject",
}


@dataclass(frozen=True, slots=True)
class Who:
    """A client's identity, as the driver finds it."""

    tgid: int = 1234
    uid: int = 1000
    start_ticks: int = 987654321
    comm: bytes = b"python"


@dataclass(frozen=True, slots=True)
class Sight:
    """One fault as a hook sees it; the room is [start, end)."""

    va: int = 0x7000_0001_2345
    room: tuple[int, int] = (0x7000_0000_0000, 0x7001_0000_0000)
    access: int = 1
    fault: int = 1
    place: int = 1
    unit: int = 1
    veid: int = 3
    gpc: int = 5
    gpu: bytes = GPUS[0]


@dataclass(slots=True)
class Calls:
    """What the core has asked of the world."""

    wakes: int = 0
    killed: list[int] = field(default_factory=lambda: list[int]())
    put: list[int] = field(default_factory=lambda: list[int]())
    injected: list[Fields] = field(default_factory=lambda: list[Fields]())
    dropped: list[int] = field(default_factory=lambda: list[int]())


@cache
def compiled() -> ModuleType:
    """The compiled module: its `ffi` and its `lib`."""
    path = extension(SANITIZE if SANITIZED else ())
    loader = ExtensionFileLoader(MODULE, str(path))
    spec = spec_from_loader(MODULE, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    module.ffi.def_extern("op_wake")(_wake)
    module.ffi.def_extern("op_kill")(_kill)
    module.ffi.def_extern("op_put_process")(_put_process)
    module.ffi.def_extern("op_inject")(_inject)
    module.ffi.def_extern("drop_backing")(_drop)
    return module


def _calls(context: object) -> Calls:
    calls: Calls = compiled().ffi.from_handle(context)
    return calls


def _number(pointer: object) -> int:
    return int(compiled().ffi.cast("uintptr_t", pointer))


def _wake(context: object) -> None:
    _calls(context).wakes += 1


def _kill(context: object, process: object) -> None:
    _calls(context).killed.append(_number(process))


def _put_process(context: object, process: object) -> None:
    _calls(context).put.append(_number(process))


def _inject(context: object, client: object, inject: Any) -> int:
    calls = _calls(context)
    calls.injected.append(_fields(inject) | {"key": _number(compiled().lib.mpsafe_core_client_key(client))})
    inject.status = 0x56
    return 0


def _drop(context: object, backing: object) -> None:
    _calls(context).dropped.append(_number(backing))


def _fields(struct: Any) -> Fields:
    ffi = compiled().ffi
    found: Fields = {}
    for name, _ in ffi.typeof(struct[0]).fields:
        value = getattr(struct[0], name)
        if isinstance(value, int):
            found[name] = value
        elif ffi.typeof(value).item.cname in ("char", "uint8_t"):
            found[name] = bytes(ffi.buffer(value))
        else:
            found[name] = tuple(value)
    return found


class Core:
    """One core; pointers are numbers here. Each method is the C function of that name."""

    def __init__(self, ring: int = 16, *, inject: bool = True, driver: bytes = b"none") -> None:
        module = compiled()
        self._ffi, self._lib = module.ffi, module.lib
        self.calls = Calls()
        self._context = self._ffi.new_handle(self.calls)
        self._driver = self._ffi.new("char[]", driver)
        ops = [self._lib.op_wake, self._lib.op_kill, self._lib.op_put_process]
        self._ops = self._ffi.new("mpsafe_core_ops_t *", [*ops, self._lib.op_inject if inject else self._ffi.NULL])
        config = [77, 88, 5, ring, self._driver, self._ops, self._context]
        made = self._ffi.new("mpsafe_core_t **")
        result = self._lib.mpsafe_core_init(made, self._ffi.new("mpsafe_core_config_t *", config))
        if result:
            raise OSError(-result, os.strerror(-result))
        self._core = made[0]

    def deinit(self) -> None:
        self._lib.mpsafe_core_deinit(self._core)

    def create(self, key: int, who: Who, process: int, now: int) -> int:
        identity = self._ffi.new("mpsafe_identity_t *", [who.tgid, who.uid, who.start_ticks, who.comm])
        result: int = self._lib.mpsafe_core_client_create(
            self._core, self._pointer(key), identity, self._pointer(process), now
        )
        return result

    def destroy(self, key: int, now: int) -> None:
        self._lib.mpsafe_core_client_destroy(self._core, self._pointer(key), now)

    def get(self, key: int) -> Any:
        """The client; None if there is none."""
        return self._lib.mpsafe_core_client_get(self._core, self._pointer(key)) or None

    def get_by_id(self, number: int) -> Any:
        return self._lib.mpsafe_core_client_get_by_id(self._core, number) or None

    def put(self, client: Any) -> None:
        self._lib.mpsafe_core_client_put(client)

    def any_doomed(self) -> bool:
        return bool(self._lib.mpsafe_core_any_doomed(self._core))

    def refuses(self, client: Any) -> bool:
        return bool(self._lib.mpsafe_core_refuses(self._core, client))

    def fault_begin(self, client: Any, sight: Sight, now: int) -> tuple[int, Any]:
        """The status, and the sink to give back to fault_end()."""
        sink = self._ffi.new("mpsafe_sink_t *")
        return self._lib.mpsafe_core_fault_begin(self._core, client, self._sight(sight), now, sink), sink

    def fault_end(self, client: Any, sight: Sight, sink: Any, backing: int, status: int, now: int) -> None:
        self._lib.mpsafe_core_fault_end(
            self._core, client, self._sight(sight), sink, self._pointer(backing), status, now
        )

    def sinks_drop(self, client: Any, gpu: bytes) -> None:
        self._lib.mpsafe_core_sinks_drop(self._core, client, gpu, self._lib.drop_backing, self._context)

    def orphan(self, sight: Sight, now: int) -> None:
        self._lib.mpsafe_core_orphan(self._core, self._sight(sight), now)

    def hold(self, client: Any, now: int) -> int:
        return int(self._lib.mpsafe_core_hold(self._core, client, now))

    def open(self, now: int) -> int:
        return int(self._lib.mpsafe_core_open(self._core, now))

    def close(self, now: int) -> None:
        self._lib.mpsafe_core_close(self._core, now)

    def request(self, name: str, fields: Fields, now: int) -> tuple[int, str | None, Fields]:
        """Any request but HEARTBEAT: the result, the field that was wrong, the struct as it is then."""
        struct = self._ffi.new(f"struct mpsafe_{_STRUCTS[name]} *")
        for field_name, value in fields.items():
            setattr(struct, field_name, value)
        result, wrong = self.raw_request(getattr(self._lib, f"MPSAFE_IOC_{name.upper()}"), struct, now)
        return result, wrong, _fields(struct)

    def heartbeat(self, now: int) -> int:
        return self.raw_request(self._lib.MPSAFE_IOC_HEARTBEAT, self._ffi.NULL, now)[0]

    def raw_request(self, number: int, payload: Any, now: int) -> tuple[int, str | None]:
        wrong = self._ffi.new("char const **", self._ffi.new("char[]", b"not set"))
        result = self._lib.mpsafe_core_request(self._core, number, payload, now, wrong)
        return result, self._ffi.string(wrong[0]).decode() if wrong[0] else None

    def read(self) -> Fields | None:
        record = self._ffi.new("struct mpsafe_record *")
        return _fields(record) if self._lib.mpsafe_core_read(self._core, record) else None

    def readable(self) -> bool:
        return bool(self._lib.mpsafe_core_readable(self._core))

    def rewind(self) -> None:
        self._lib.mpsafe_core_rewind(self._core)

    def tick(self, now: int) -> int:
        return int(self._lib.mpsafe_core_tick(self._core, now))

    def _pointer(self, number: int) -> Any:
        return self._ffi.cast("void *", number)

    def _sight(self, sight: Sight) -> Any:
        made = self._ffi.new("mpsafe_sight_t *")
        made.va, (made.room_start, made.room_end) = sight.va, sight.room
        for name in ("access", "fault", "place", "unit", "veid", "gpc"):
            setattr(made, name, getattr(sight, name))
        made.gpu_uuid = sight.gpu
        return made
