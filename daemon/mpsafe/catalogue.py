# SPDX-License-Identifier: Apache-2.0
"""The catalogue of Xids, read from `catalogue.toml` beside this file; that file explains its keys.

A number without an entry is no error: NVIDIA adds some with each driver branch.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec

from mpsafe.errors import BadConfig
from mpsafe.model import FaultClass

__all__ = ["Effect", "Entry", "Response", "load", "read"]

Effect: TypeAlias = Literal["clients-end", "device-lost", "follows", "by-line", "nothing", "unknown"]
Response: TypeAlias = Literal["absorb", "restart-server", "join", "note"]
_Key = TypeVar("_Key", bound=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is known of one Xid. A `..._text` is the sentence for the key beside it.

    `immediate` and `follow_up` are the actions that NVIDIA advises, as NVIDIA spells them; None:
    it advises none. `sources` are the documents that the entry rests on.
    """

    xid: int
    name: str
    meaning: str
    fault_class: FaultClass
    why: str
    stock: Effect
    stock_text: str
    mpsafe: Response
    mpsafe_text: str
    immediate: str | None
    immediate_text: str | None
    follow_up: str | None
    follow_up_text: str | None
    sources: tuple[str, ...]


@cache
def load() -> Mapping[int, Entry]:
    """The catalogue that mpsafe ships, by Xid in ascending order; read once per process."""
    return read(Path(__file__).with_name("catalogue.toml"))


def read(file: Path) -> Mapping[int, Entry]:
    """One catalogue file, by Xid in ascending order.

    Raises BadConfig, which names the file, the table and the key; OSError if it cannot be read.
    """
    try:
        tables = msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), _Tables)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `")
        raise BadConfig(str(file), path.replace("`", "").replace("$.", ""), problem, "") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(str(file), "", f"not TOML: {error}", "") from error
    entries: dict[int, Entry] = {}
    for index, group in enumerate(tables.entry):
        for entry in _entries(file, f"entry[{index}]", group, tables):
            if entry.xid in entries:
                raise BadConfig(str(file), f"entry[{index}].xid", f"{entry.xid} has an entry already", "")
            entries[entry.xid] = entry
    return MappingProxyType(dict(sorted(entries.items())))


_Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]
_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=9999)]


class _Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One [[entry]] table: one Xid, or several that differ in the number alone."""

    xid: Annotated[list[_Number], msgspec.Meta(min_length=1)]
    name: _Text
    meaning: _Text
    fault_class: FaultClass = msgspec.field(name="class")
    why: _Text
    stock: Effect
    mpsafe: Response
    immediate: _Text | None = None
    follow_up: _Text | None = None
    source: Annotated[list[_Text], msgspec.Meta(min_length=1)]


class _Tables(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    stock: dict[Effect, _Text]
    mpsafe: dict[Response, _Text]
    advice: dict[str, _Text]
    source: dict[str, _Text]
    entry: list[_Group]


def _entries(file: Path, place: str, group: _Group, tables: _Tables) -> Iterator[Entry]:
    def sentence(field: str, words: Mapping[_Key, str], key: _Key) -> str:
        if key not in words:
            raise BadConfig(str(file), f"{place}.{field}", f"no table of this file explains {key!r}", "")
        return words[key]

    def advice(field: str, key: str | None) -> str | None:
        return None if key is None else sentence(field, tables.advice, key)

    for number in group.xid:
        yield Entry(
            xid=number,
            name=group.name,
            meaning=group.meaning,
            fault_class=group.fault_class,
            why=group.why,
            stock=group.stock,
            stock_text=sentence("stock", tables.stock, group.stock),
            mpsafe=group.mpsafe,
            mpsafe_text=sentence("mpsafe", tables.mpsafe, group.mpsafe),
            immediate=group.immediate,
            immediate_text=advice("immediate", group.immediate),
            follow_up=group.follow_up,
            follow_up_text=advice("follow_up", group.follow_up),
            sources=tuple(sentence("source", tables.source, key) for key in group.source),
        )
