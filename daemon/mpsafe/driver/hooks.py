# SPDX-License-Identifier: Apache-2.0
"""The hooks that mpsafe.cocci inserts, and a count of them by the texts before and after, not by what spatch says."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

__all__ = ["HOOKS", "LINES_MAX", "Counted", "Hook", "count", "wrong"]

LINES_MAX: Final = 20

_FUNCTION: Final = re.compile(r"^(?:[A-Za-z_][\w\s*]*?[\s*])?([A-Za-z_]\w*)\([^;]*$")
_NAME: Final = r"\w+"


@dataclass(frozen=True, slots=True)
class Hook:
    """One rule of mpsafe.cocci: `lines` are regular expressions of what it inserts at each of `places` in `file`.

    `functions` are those that it may be in, under the names that driver versions have for them.
    """

    name: str
    file: str
    functions: tuple[str, ...]
    lines: tuple[str, ...]
    places: int = 1


@dataclass(frozen=True, slots=True)
class Counted:
    """What became of one hook. `lines` is how many it has inserted."""

    name: str
    file: str
    function: str
    expected: int
    count: int
    lines: int


def _call(name: str, arguments: int = 1) -> str:
    return rf"{name}\({', '.join([_NAME] * arguments)}\);"


HOOKS: Final = (
    Hook("declared", "uvm_va_space.h", ("",), (r'#include "uvm_mpsafe\.h"',)),
    Hook("built", "nvidia-uvm-sources.Kbuild", ("",), (r"include \$\(src\)/nvidia-uvm/mpsafe\.Kbuild",)),
    Hook("load", "uvm.c", ("uvm_init",), (r"uvm_mpsafe_init\(\);",)),
    Hook("unload", "uvm.c", ("uvm_exit",), (r"uvm_mpsafe_exit\(\);",)),
    Hook("create", "uvm_va_space.c", ("uvm_va_space_create",), (_call("uvm_mpsafe_va_space_create"),)),
    Hook("destroy", "uvm_va_space.c", ("uvm_va_space_destroy",), (_call("uvm_mpsafe_va_space_destroy"),)),
    Hook("hold_destroy", "uvm_va_space.c", ("uvm_va_space_destroy",), (_call("uvm_mpsafe_hold"),)),
    Hook("hold_shutdown", "uvm_va_space_mm.c", ("uvm_va_space_mm_shutdown",), (_call("uvm_mpsafe_hold"),)),
    Hook("remove", "uvm_va_space.c", ("remove_gpu_va_space",), (_call("uvm_mpsafe_gpu_va_space_remove"),)),
    Hook(
        "refuse",
        "uvm_va_range.c",
        ("uvm_va_range_create_mmap", "uvm_va_range_alloc_reclaim", "uvm_va_range_initialize_reclaim"),
        (rf"if \(uvm_mpsafe_refuses_range\({_NAME}\)\)", r"return NV_ERR_INVALID_STATE;"),
        places=2,
    ),
    Hook(
        "replayable",
        "uvm_gpu_replayable_faults.c",
        ("cancel_fault_precise_va",),
        (rf"if \(uvm_mpsafe_replayable_fault\({_NAME}, {_NAME}\) == NV_OK\)", r"return NV_OK;"),
    ),
    Hook(
        "orphan",
        "uvm_gpu_replayable_faults.c",
        ("translate_instance_ptrs",),
        (_call("uvm_mpsafe_orphan_fault"),),
    ),
    Hook(
        "non_replayable",
        "uvm_gpu_non_replayable_faults.c",
        ("service_fault_once", "service_fault"),
        (_call("uvm_mpsafe_non_replayable_fault", 3),),
    ),
    Hook(
        "fatal",
        "uvm_gpu_non_replayable_faults.c",
        ("service_fault_once", "service_fault"),
        (_call("uvm_mpsafe_fatal_fault", 2),),
    ),
)


def count(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[tuple[Counted, ...], tuple[str, ...]]:
    """Of files by name, all that HOOKS names: the hooks, and what else was changed, a sentence each."""
    places: dict[str, list[str]] = {hook.name: [] for hook in HOOKS}
    other: list[str] = []
    for file in sorted({hook.file for hook in HOOKS}):
        hooks = [hook for hook in HOOKS if hook.file == file]
        for at, lines in _inserted(file, before[file].splitlines(), after[file].splitlines(), other):
            _assign(hooks, at, lines, after[file].splitlines(), places, other)
    return tuple(_counted(hook, places[hook.name]) for hook in HOOKS), tuple(other)


def wrong(counted: Iterable[Counted]) -> Counted | None:
    """The first hook that is not exactly as often there as it has to be."""
    return next((hook for hook in counted if hook.count != hook.expected), None)


def _inserted(file: str, old: list[str], new: list[str], other: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Each run of lines that is new, with the index of its first; what is gone from the old text goes to `other`."""
    for kind, i1, i2, j1, j2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind in ("replace", "delete"):
            other.append(f"{file}: {i2 - i1} of NVIDIA's lines from line {i1 + 1} on were changed or removed")
        elif kind == "insert":
            yield j1, [line.strip() for line in new[j1:j2]]


def _assign(
    hooks: list[Hook], at: int, lines: list[str], text: list[str], places: dict[str, list[str]], other: list[str]
) -> None:
    done = 0
    while done < len(lines):
        function = _function(text, at + done)
        hook = next((hook for hook in hooks if _begins(hook, lines[done:], function)), None)
        if hook is None:
            where = f"{hooks[0].file}:{at + done + 1}"
            other.append(f"{where}: {lines[done]!r} in {function or 'no function'} is of no hook")
            done += 1
            continue
        places[hook.name].append(function)
        done += len(hook.lines)


def _begins(hook: Hook, lines: list[str], function: str) -> bool:
    return (
        function in hook.functions
        and len(lines) >= len(hook.lines)
        and all(re.fullmatch(form, line) for form, line in zip(hook.lines, lines, strict=False))
    )


def _function(text: list[str], index: int) -> str:
    """The name of the function that a line is in; empty outside of all."""
    for line in reversed(text[:index]):
        if line.startswith("}"):
            return ""
        if match := _FUNCTION.match(line):
            return match[1]
    return ""


def _counted(hook: Hook, places: list[str]) -> Counted:
    """Several places of a hook are in as many functions: twice in one is once too few."""
    functions = list(dict.fromkeys(places))
    name = ", ".join(functions) or " or ".join(hook.functions)
    times = len(functions) if len(places) == hook.places else len(places)
    return Counted(hook.name, hook.file, name, hook.places, times, len(places) * len(hook.lines))
