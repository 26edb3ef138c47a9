# SPDX-License-Identifier: Apache-2.0
"""The CUDA driver API, as much of it as mpsafe and a tenant need, through cffi.

The same binding serves the real libcuda.so.1 and the software one; the path is the only difference.

    driver = cuda.load()                       # $MPSAFE_LIBCUDA, else libcuda.so.1
    driver.init()
    device = driver.device("GPU-...")
    with (
        cuda.Context(driver, device) as context,
        cuda.Module(context, cuda.kernels()) as module,
        cuda.Buffer(context, 4096) as numbers,
    ):
        module.kernel("fill").launch(cuda.U64(numbers.address), cuda.U64(1024), cuda.U32(7), threads=1024)
        context.synchronize()
        numbers.read()

Every failed call raises `mpsafe.errors.BadCudaCall` with the CUresult. What is made is closed in
reverse; closing after an error that ended the context is silent. Left out: runtime API, arrays,
graphs, managed memory, peers.
"""

from mpsafe.cuda.context import Context, Event, Stream
from mpsafe.cuda.driver import Device, Driver, load
from mpsafe.cuda.launch import F32, ILLEGAL_INSTRUCTION, U32, U64, Argument, Kernel, Module, kernels
from mpsafe.cuda.memory import Buffer, HostBuffer, Registration, Span
from mpsafe.cuda.virtual import Access, Memory, Reservation, granularity

__all__ = [
    "F32",
    "ILLEGAL_INSTRUCTION",
    "U32",
    "U64",
    "Access",
    "Argument",
    "Buffer",
    "Context",
    "Device",
    "Driver",
    "Event",
    "HostBuffer",
    "Kernel",
    "Memory",
    "Module",
    "Registration",
    "Reservation",
    "Span",
    "Stream",
    "granularity",
    "kernels",
    "load",
]
