# SPDX-License-Identifier: Apache-2.0
"""Routing traces: which experts each layer asked for, token by token, and what was known when it did.

Two forms. A trace of ids is text, one JSON object a token: {"tok": 1, "layers": [[3, 17], [0, 5]]}, with the ids of
layer 0 first; other keys are left alone. A recorded trace (`record.py`) is a NumPy archive (.npz) with the router's
probabilities, what the routers of later layers would have said, and embeddings.
"""

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpsafe.errors import BadTrace

__all__ = ["EXPERTS_MAX", "LAYERS_MAX", "Floats", "Ids", "Trace", "read", "write"]

Ids = NDArray[np.intp]
Floats = NDArray[np.float32]

LAYERS_MAX: Final = 1024
EXPERTS_MAX: Final = 4096
LINE_BYTES_MAX: Final = 1 << 20
FORM: Final = 1
_ARRAYS: Final = ("ids", "requests", "tokens", "probabilities", "ahead", "embeddings", "contexts")


@dataclass(frozen=True, slots=True)
class Trace:
    """T tokens through L layers of E experts each.

    `ids`: T * L arrays of expert ids, in the router's order where it was recorded. `requests` [T]: whose token it is.
    Where it was recorded, else None: `probabilities` [T, L, E], the whole softmax of each router; `ahead`
    [T, L, D, E], the softmax of the router of layer l + 1 + d over the input of layer l's router;
    `embeddings` [T, H], of the token; `contexts` [T, H], the last hidden state of the token before, 0 at a start.
    """

    name: str
    layers: int
    experts: int
    ids: list[Ids]
    requests: Ids
    tokens: Ids
    expert_bytes: int = 1
    probabilities: Floats | None = None
    ahead: Floats | None = None
    embeddings: Floats | None = None
    contexts: Floats | None = None

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def widest(self) -> int:
        """The most experts that one layer asked for at once."""
        return max((len(ids) for ids in self.ids), default=0)


def read(path: Path, *, experts: int | None = None) -> Trace:
    """A trace of either form. BadTrace names the file, the line and what was expected.

    `experts`: of a layer; where it is not given, a trace of ids is taken to have as many as its highest id says.
    """
    try:
        with path.open("rb") as lines:
            if lines.read(2) == b"PK":
                return _recorded(path, experts)
            lines.seek(0)
            return _of_ids(path, _numbered(path, lines), experts)
    except OSError as error:
        raise BadTrace(os.fspath(path), "", f"cannot be read: {error.strerror or error}") from None


def write(path: Path, trace: Trace) -> None:
    """A recorded trace, as an archive: floats in half precision, ids in 16 bits. All layers ask for equally many."""
    arrays: dict[str, NDArray[np.generic]] = {
        "ids": np.asarray(trace.ids, np.uint16).reshape(len(trace), trace.layers, -1),
        "requests": trace.requests.astype(np.uint32),
        "tokens": trace.tokens.astype(np.uint32),
    }
    for name in ("probabilities", "ahead", "embeddings", "contexts"):
        floats: Floats | None = getattr(trace, name)
        if floats is not None:
            arrays[name] = floats.astype(np.float16)
    shape = np.asarray([FORM, trace.layers, trace.experts, trace.expert_bytes], np.int64)
    with path.open("wb") as file:
        np.savez_compressed(file, shape=shape, allow_pickle=False, **arrays)


def _numbered(path: Path, lines: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_BYTES_MAX:
            raise BadTrace(os.fspath(path), f"line {number}", f"it has more than {LINE_BYTES_MAX} bytes")
        if line.strip():
            yield number, line


def _of_ids(path: Path, lines: Iterator[tuple[int, bytes]], experts: int | None) -> Trace:
    ids: list[Ids] = []
    tokens: list[int] = []
    layers = 0
    highest = -1
    for number, line in lines:
        place = f"line {number}"
        token = _token(path, place, line)
        if layers and len(token.layers) != layers:
            said = f"it has {len(token.layers)} layers, the lines before have {layers}"
            raise BadTrace(os.fspath(path), place, said)
        layers = len(token.layers)
        for layer, row in enumerate(token.layers):
            ids.append(_layer(path, f"{place}, layer {layer}", row, experts))
            highest = max(highest, int(ids[-1].max(initial=-1)))
        tokens.append(token.tok if isinstance(token.tok, int) and 0 <= token.tok < 1 << 32 else len(tokens))
    if highest < 0:
        raise BadTrace(os.fspath(path), "", "there is no token in it, or none that asks for an expert")
    return Trace(
        name=path.name,
        layers=layers,
        experts=experts or highest + 1,
        ids=ids,
        requests=np.zeros(len(tokens), np.intp),
        tokens=np.asarray(tokens, np.intp),
    )


class _Token(msgspec.Struct):
    """One line of a trace of ids."""

    layers: Annotated[list[list[Annotated[int, msgspec.Meta(ge=0)]]], msgspec.Meta(min_length=1, max_length=LAYERS_MAX)]
    tok: object = None


_DECODER: Final = msgspec.json.Decoder(_Token)


def _token(path: Path, place: str, line: bytes) -> _Token:
    try:
        return _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        cut = "" if line.endswith(b"\n") else "; the file ends in this line, so it may be cut short"
        raise BadTrace(os.fspath(path), place, f"{error}{cut}") from None


def _layer(path: Path, place: str, row: list[int], experts: int | None) -> Ids:
    limit = experts or EXPERTS_MAX
    if wrong := [one for one in row if one >= limit]:
        raise BadTrace(os.fspath(path), place, f"expert {wrong[0]} is not one of 0 to {limit - 1}")
    if len(set(row)) != len(row):
        raise BadTrace(os.fspath(path), place, "an expert is named twice")
    return np.asarray(row, np.intp)


def _recorded(path: Path, experts: int | None) -> Trace:
    name = os.fspath(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("shape", *_ARRAYS) if key in archive}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BadTrace(name, "", f"it is no whole archive of arrays: {error}") from None
    if missing := [key for key in ("shape", "ids", "requests", "tokens") if key not in arrays]:
        raise BadTrace(name, "", f"the array {missing[0]} is missing")
    shape = arrays["shape"]
    if shape.shape != (4,) or shape.dtype.kind not in "iu" or shape[0] != FORM:
        raise BadTrace(name, "array shape", f"form {FORM}, layers, experts and bytes of an expert are expected")
    _, layers, count, expert_bytes = (int(one) for one in shape)
    ids = arrays["ids"]
    if not (0 < layers <= LAYERS_MAX and 0 < count <= EXPERTS_MAX and expert_bytes > 0):
        raise BadTrace(name, "array shape", f"{layers} layers of {count} experts of {expert_bytes} bytes make no sense")
    if experts not in (None, count):
        raise BadTrace(name, "array shape", f"it has {count} experts a layer, {experts} are asked for")
    if ids.ndim != 3 or ids.dtype.kind not in "iu" or ids.shape[1] != layers or not ids.size:
        raise BadTrace(name, "array ids", f"whole numbers [tokens, {layers}, experts of a token] are expected")
    if int(ids.min()) < 0 or int(ids.max()) >= count:
        raise BadTrace(name, "array ids", f"an expert is not one of 0 to {count - 1}")
    ordered = np.sort(ids, axis=2)
    if bool((ordered[:, :, 1:] == ordered[:, :, :-1]).any()):
        raise BadTrace(name, "array ids", "an expert is named twice")
    tokens = len(ids)
    ends: dict[str, tuple[int | None, ...]] = {
        "requests": (tokens,),
        "tokens": (tokens,),
        "probabilities": (tokens, layers, count),
        "ahead": (tokens, layers, None, count),
        "embeddings": (tokens, None),
        "contexts": (tokens, None),
    }
    for key, wanted in ends.items():
        if key in arrays and not _fits(arrays[key], wanted):
            raise BadTrace(name, f"array {key}", f"finite numbers of the shape {wanted} are expected")
    floats = {key: arrays[key].astype(np.float32) for key in _ARRAYS[3:] if key in arrays}
    return Trace(
        name=path.name,
        layers=layers,
        experts=count,
        ids=list(ids.astype(np.intp).reshape(tokens * layers, -1)),
        requests=arrays["requests"].astype(np.intp),
        tokens=arrays["tokens"].astype(np.intp),
        expert_bytes=expert_bytes,
        **floats,
    )


def _fits(array: NDArray[np.generic], wanted: tuple[int | None, ...]) -> bool:
    shapes = len(array.shape) == len(wanted) and all(w in (None, n) for n, w in zip(array.shape, wanted, strict=True))
    return shapes and array.dtype.kind in "iuf" and bool(np.isfinite(array.astype(np.float32)).all())
