# SPDX-License-Identifier: Apache-2.0
"""The software GPU: our `libcuda` and `libnvidia-ml` over host memory, with MPS's failure behaviour.

It stands in for silicon and for the driver below it, for nothing else. No figure that it gives is a
GPU's. The C libraries are in ffi/soft; the processes behind them are here:

    host.py            all of it, started and stopped together; lifeline.py ends it with its host
    sockets.py         how its programs talk

    kernel.py          the software kernel: one process that owns
    machine.py         what the device does: groups, faults (no I/O); parts.py, ledger.py: its memory
    peer.py            one process on it
    owner.py           the software /dev/mpsafe, records.py: its ring; kernel_log.py

    control.py         the stand-in for nvidia-cuda-mps-control, which starts
    control_daemon.py  the control daemon: control_wire.py, pipe_directory.py, mps_log.py around it,
                       commands.py and settings.py: what it can be told
    servers.py         its servers, seen from it
    server.py          an MPS server; rm.py: its way to the kernel
"""
