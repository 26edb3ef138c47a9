# SPDX-License-Identifier: Apache-2.0
"""Modules of PTX text, their kernels, and the arguments that a kernel takes."""

from dataclasses import dataclass
from importlib import resources
from typing import ClassVar, TypeAlias

from mpsafe.cuda._cuda import ffi
from mpsafe.cuda.context import Context, Stream, stream_handle
from mpsafe.cuda.driver import Driver
from mpsafe.cuda.owned import Handle

__all__ = ["F32", "ILLEGAL_INSTRUCTION", "U32", "U64", "Argument", "Kernel", "Module", "kernels"]

# An illegal instruction cannot be written in PTX. The software GPU has a kernel of this name that
# does what one does; the real driver gets the nearest there is, and reports 719 in place of 715.
ILLEGAL_INSTRUCTION = """\
.version 6.4
.target sm_70
.address_size 64
.visible .entry illegal_instruction() { trap; }
"""


@dataclass(frozen=True, slots=True)
class U32:
    """A kernel argument of type .u32."""

    ctype: ClassVar[str] = "uint32_t *"
    value: int


@dataclass(frozen=True, slots=True)
class U64:
    """A kernel argument of type .u64: a size, or the address of a `Span`."""

    ctype: ClassVar[str] = "uint64_t *"
    value: int


@dataclass(frozen=True, slots=True)
class F32:
    """A kernel argument of type .f32."""

    ctype: ClassVar[str] = "float *"
    value: float


Argument: TypeAlias = U32 | U64 | F32


def kernels() -> str:
    """The PTX text of mpsafe's own kernels (kernels.ptx): each entry's comment says what it does.

    affine(U64 out, U64 in, U32 n, F32 a, F32 b)         n threads
    matvec(U64 y, U64 w, U64 x, U32 rows, U32 cols)      rows threads
    fill(U64 p, U64 words, U32 value)                    words threads
    checksum(U64 p, U64 words, U64 start, U64 out)       any number of threads
    accumulate(U64 out, U64 in, U32 n)                   n threads
    rms_norm(U64 out, U64 in, U64 w, U32 n)              n threads
    gate(U64 out, U64 a, U64 b, U32 n)                   n threads
    attend(U64 out, U64 q, U64 kv, U32 tokens, U32 stride, U32 dim, U32 head, F32 scale)   dim threads
    argmax(U64 out, U64 in, U32 n)                       one thread
    read_address(U64 address, U64 out), write_address(U64 address, U32 value),
    misaligned(U64 address), trap(), endless(U64 flag), ticking(U64 word)   one thread
    """
    return resources.files("mpsafe.cuda").joinpath("kernels.ptx").read_text(encoding="utf-8")


class Module(Handle):
    """PTX text, compiled by the driver for the context's device."""

    undo: ClassVar[str] = "cuModuleUnload"

    def __init__(self, context: Context, ptx: str) -> None:
        out = ffi.new("CUmodule *")
        context.driver.call("cuModuleLoadData", out, ffi.new("char[]", ptx.encode()))
        super().__init__(context.driver, out[0])

    def kernel(self, name: str) -> "Kernel":
        """The entry of that name; BadCudaCall 500 if the text has none. Good until the module is closed."""
        out = ffi.new("CUfunction *")
        self.driver.call("cuModuleGetFunction", out, self.handle, name.encode())
        return Kernel(self.driver, out[0])


class Kernel:
    """One entry of a module."""

    def __init__(self, driver: Driver, function: object) -> None:
        self._driver = driver
        self._function = function

    def launch(self, *arguments: Argument, threads: int = 1, block: int = 128, stream: Stream | None = None) -> None:
        """Put it into the stream with at least `threads` threads in blocks of `block`, fewer if one block will do.

        The arguments have to be those of the entry: the driver cannot check them.
        """
        values = [ffi.new(argument.ctype, argument.value) for argument in arguments]
        pointers = ffi.new("void *[]", values)
        size = max(1, min(threads, block))
        grid = -(-threads // size)
        where = stream_handle(stream)
        self._driver.call("cuLaunchKernel", self._function, grid, 1, 1, size, 1, 1, 0, where, pointers, ffi.NULL)
