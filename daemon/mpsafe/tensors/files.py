# SPDX-License-Identifier: Apache-2.0
"""Safetensors files, read straight into a region: the host holds one tensor at a time, and no module is made."""

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from mpsafe.errors import BadTensorFile
from mpsafe.tensors.layout import Layout
from mpsafe.tensors.view import bytes_of
from mpsafe.tensors.weights import Weights
from mpsafe.vault import Vault

__all__ = ["load"]

# The names of the format (huggingface/safetensors, README "Format"), and torch's.
DTYPES: Final = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "F32": "float32",
    "I64": "int64",
    "F64": "float64",
}


def load(vault: Vault, name: str, files: Iterable[str | os.PathLike[str]], *, progress: bool | None = None) -> Weights:
    """All tensors of these files in a new immutable region, committed. BadTensorFile for what is none, or is twice.

    `progress`: a bar on stderr; where it is not said, if that is a terminal.
    """
    paths = [os.fspath(file) for file in files]
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as undo:
        opened = [(path, stack.enter_context(_opened(path))) for path in paths]
        source: dict[str, Any] = {}
        forms: list[tuple[str, object, str, tuple[int, ...]]] = []
        for path, file in opened:
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                if key in source:
                    raise BadTensorFile(path, f"it has {key} too, which another file has")
                one = file.get_slice(key)
                if one.get_dtype() not in DTYPES:
                    raise BadTensorFile(path, f"{key} is of dtype {one.get_dtype()}, which mpsafe does not know")
                source[key] = file
                forms.append((key, key, DTYPES[one.get_dtype()], tuple(one.get_shape())))
        layout = Layout.of(forms)
        if not layout.nbytes:
            raise BadTensorFile(", ".join(paths) or "no file", "there is no tensor in it")
        region = undo.enter_context(vault.create(name, "immutable", layout.nbytes, layout=layout.encoded()))
        undo.callback(vault.release, region)
        filled = bytes_of(region)
        with _bar(shown=sys.stderr.isatty() if progress is None else progress) as bar:
            task = bar.add_task(name, total=sum(place.nbytes for place in layout.tensors.values()))
            for key, place in layout.tensors.items():
                place.of(filled).copy_(source[key].get_tensor(key))
                bar.advance(task, place.nbytes)
        del filled
        region.commit()
        undo.pop_all()
        return Weights(region, layout)


def _opened(path: str) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise BadTensorFile(path, str(error)) from error


def _bar(*, shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not shown)
