# SPDX-License-Identifier: Apache-2.0
"""The requests of the contract: what each field may be, and strategies that draw them right and wrong."""

from collections.abc import Callable
from typing import Final, TypeAlias

from hypothesis import strategies as st

from core.library import Fields, Value

__all__ = ["DEFAULT_POLICY", "policies", "requests", "wrong_fields"]

DEFAULT_POLICY: Final[Fields] = {
    "mode": 0, "in_force": 0, "places": 0b1110, "units": 0b110, "sinks_max": 1024, "budget_us": 2_000_000,
    "grow_after": (8, 64), "hold_ms": 2000, "kill_ms": 0, "reserved": (0, 0, 0),
}  # fmt: skip

_MODES: Final = range(3)
_RIGHT: Final[dict[str, dict[str, Callable[[Value], bool]]]] = {
    "hello": {"size": lambda size: size == 72, "reserved": lambda reserved: reserved == 0},
    "policy_set": {
        "mode": lambda mode: mode in _MODES,
        "in_force": lambda in_force: in_force == 0,
        "places": lambda places: places in range(0, 15, 2),
        "units": lambda units: units in range(0, 7, 2),
        "sinks_max": lambda sinks_max: sinks_max in range(1, 4097),
        "budget_us": lambda budget_us: budget_us in range(1, 60_000_001),
        "grow_after": lambda grow_after: list(_ints(grow_after)) == sorted(_ints(grow_after)),
        "hold_ms": lambda hold_ms: hold_ms in range(60_001),
        "kill_ms": lambda kill_ms: kill_ms in range(600_001),
        "reserved": lambda reserved: reserved == (0, 0, 0),
    },
    "policy_get": {},
    "stats": {},
    "client_next": {"reserved": lambda reserved: reserved == 0},
    "client_mode": {
        "mode": lambda mode: mode in (*_MODES, 0xFFFF),
        "reserved": lambda reserved: reserved == (0, 0, 0),
    },
    "answer": {"action": lambda action: action in (1, 2, 3)},
    "inject": {
        "access": lambda access: access in range(4),
        "fault": lambda fault: fault in range(1, 5),
        "unit": lambda unit: unit in range(3),
        "place": lambda place: place in range(6),
        "reserved": lambda reserved: reserved == 0,
    },
}


def _ints(value: Value) -> tuple[int, ...]:
    assert isinstance(value, tuple)
    return value


def wrong_fields(name: str, fields: Fields) -> list[str]:
    """The fields of a request that the contract does not allow."""
    wrong = [field for field, right in _RIGHT[name].items() if not right(fields[field])]
    if name == "answer":
        allowed = range(1, 600_001) if fields["action"] == 2 else range(1)
        wrong += ["ms"] if fields["ms"] not in allowed else []
    return wrong


def _edges(*values: int) -> st.SearchStrategy[int]:
    return st.sampled_from([near for value in values for near in (value - 1, value, value + 1) if near >= 0])


_Drawn: TypeAlias = st.SearchStrategy[int] | st.SearchStrategy[bytes] | st.SearchStrategy[tuple[int, ...]]


def _struct(**fields: _Drawn) -> st.SearchStrategy[Fields]:
    return st.fixed_dictionaries(dict[str, st.SearchStrategy[Value]](fields))


def _of(name: str, fields: st.SearchStrategy[Fields]) -> st.SearchStrategy[tuple[str, Fields]]:
    return fields.map(lambda drawn: (name, drawn))


_U32: Final = st.integers(0, 2**32 - 1)
_RESERVED: Final = st.tuples(*[st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1, 0xFFFF])] * 3)

policies: Final = _struct(
    mode=st.sampled_from([0, 1, 2, 2, 2, 2, 2, 2]),
    in_force=st.just(0),
    places=st.sampled_from([0b1110] * 6 + [0b0010, 0]),
    units=st.sampled_from([0b110] * 6 + [0b010, 0]),
    sinks_max=st.sampled_from([1, 2, 20, 4096]),
    budget_us=st.sampled_from([1, 1000, 2_000_000, 60_000_000, 60_000_000]),
    grow_after=st.sampled_from([(8, 64), (0, 0), (0, 2), (1, 1), (1, 3), (2**32 - 1, 2**32 - 1)]),
    hold_ms=st.sampled_from([0, 1, 2000, 60_000]),
    kill_ms=st.sampled_from([0, 0, 1, 5000, 600_000]),
    reserved=st.just((0, 0, 0)),
)
_wild_policies: Final = _struct(
    mode=st.integers(0, 3) | st.just(0xFFFF),
    in_force=_edges(0),
    places=_edges(0, 0b1110, 0b10000),
    units=_edges(0, 0b110, 0b1000),
    sinks_max=_edges(1, 4096) | _U32,
    budget_us=_edges(1, 60_000_000) | _U32,
    grow_after=st.tuples(_edges(0, 8) | _U32, _edges(0, 8) | _U32),
    hold_ms=_edges(0, 60_000) | _U32,
    kill_ms=_edges(0, 600_000) | _U32,
    reserved=_RESERVED,
)
_numbers: Final = st.integers(0, 8) | st.just(2**64 - 1)
_injections: Final = _struct(
    client=_numbers,
    va=st.integers(0, 2**64 - 1),
    access=st.integers(0, 4),
    fault=st.integers(0, 5),
    unit=st.integers(0, 3),
    place=st.integers(0, 6),
    status=st.just(0),
    reserved=st.sampled_from([0, 0, 0, 1]),
    gpu_uuid=st.just(bytes(16)),
)


requests: Final = st.one_of(
    _of("hello", _struct(size=st.sampled_from([72, 72, 0, 71]), abi=st.integers(0, 2), reserved=st.integers(0, 1))),
    _of("policy_set", _wild_policies),
    _of("policy_get", _struct()),
    _of("stats", _struct()),
    _of("client_next", _struct(client=_numbers, reserved=st.sampled_from([0, 0, 0, 1]))),
    _of(
        "client_mode",
        _struct(client=_numbers, mode=st.sampled_from([0, 1, 2, 3, 0xFFFE, 0xFFFF]), reserved=_RESERVED),
    ),
    _of("answer", _struct(client=_numbers, action=st.integers(0, 4), ms=_edges(0, 600_000) | _U32)),
    _of("answer", _struct(client=st.integers(1, 8), action=st.just(2), ms=st.integers(1, 600_000))),
    _of("answer", _struct(client=st.integers(1, 8), action=st.sampled_from([1, 3]), ms=st.just(0))),
    _of("inject", _injections),
)
