# SPDX-License-Identifier: Apache-2.0
"""A new process with a pid that was another's: clone3(2) with set_tid, which wants root."""

import ctypes
import os
import signal
import struct
from collections.abc import Sequence
from typing import Final

__all__ = ["start_with_pid"]

SYS_CLONE3: Final = 435
# struct clone_args, version 2 (linux/sched.h): flags, pidfd, child_tid, parent_tid, exit_signal, stack,
# stack_size, tls, set_tid, set_tid_size.
_ARGUMENTS: Final = struct.Struct("10Q")


def start_with_pid(pid: int, command: Sequence[str]) -> None:
    """Starts a child of ours with that pid, to be waited for with os.waitpid. FileExistsError if the pid is taken.

    As after a fork in C: the child does nothing but execute the command. The interpreter's lock is kept over the
    call (PyDLL): let go, another thread may have it when the child begins, and no such thread is in the child.
    """
    libc = ctypes.PyDLL(None, use_errno=True)
    wanted = (ctypes.c_int * 1)(pid)
    arguments = ctypes.create_string_buffer(
        _ARGUMENTS.pack(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(wanted), 1), _ARGUMENTS.size
    )
    found = libc.syscall(SYS_CLONE3, arguments, ctypes.c_size_t(_ARGUMENTS.size))
    if found == 0:
        try:
            os.execvp(command[0], [*command])
        finally:
            os._exit(127)
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
