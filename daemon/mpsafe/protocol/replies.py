# SPDX-License-Identifier: Apache-2.0
"""Our errors as Varlink errors and back: the class name behind the interface, the fields as parameters."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from asyncvarlink import GenericVarlinkErrorReply, TypedVarlinkErrorReply

from mpsafe.errors import MpsafeError, all_errors

__all__ = ["declared", "from_reply", "to_reply"]


def declared(interface: str, *errors: type[MpsafeError]) -> tuple[type[TypedVarlinkErrorReply], ...]:
    """The errors of an interface, for its description."""
    found: list[type[TypedVarlinkErrorReply]] = []
    for error in errors:
        annotations = {f.name: f.type for f in fields(error)} | {"message": str, "hint": str}
        parameters = type("Parameters", (), {"__annotations__": annotations})
        body: dict[str, object] = {"Parameters": parameters, "__annotations__": {}, "__doc__": error.__doc__}
        found.append(type(error.__name__, (TypedVarlinkErrorReply,), body, interface=interface))
    return tuple(found)


def to_reply(interface: str, error: MpsafeError) -> GenericVarlinkErrorReply:
    """The error as the daemon sends it."""
    parameters = {**error.fields(), "message": str(error), "hint": error.hint}
    return GenericVarlinkErrorReply(f"{interface}.{type(error).__name__}", dict(parameters))


def from_reply(name: str, parameters: Mapping[str, Any]) -> MpsafeError | None:
    """The error that a reply of this name carries; None if it is none of ours or is malformed."""
    by_name = {cls.__name__: cls for cls in all_errors().values()}
    cls = by_name.get(name.rpartition(".")[2])
    if cls is None or not name.startswith("io.mpsafe."):
        return None
    values = {f.name: parameters.get(f.name) for f in fields(cls)}
    if any(not isinstance(values[f.name], f.type if isinstance(f.type, type) else object) for f in fields(cls)):
        return None
    return cls(**values)
