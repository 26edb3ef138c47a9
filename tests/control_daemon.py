# SPDX-License-Identifier: Apache-2.0
"""MPS control daemons for tests: one as the daemon would tell of it, and the end of a real one."""

import os
import select
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from mpsafe.model import ControlDaemon, Limits
from mpsafe.soft.host import SoftwareHost

__all__ = ["declared", "kill_mps"]

PATIENCE_S: Final = 60.0


def declared(directory: Path, **others: Any) -> ControlDaemon:
    """Everybody's, which runs in `directory` as it was declared; `others` are what is otherwise."""
    known = ControlDaemon(
        name="shared",
        uid=None,
        pipe_directory=os.fspath(directory),
        log_directory=os.fspath(directory.with_name("log")),
        identity=None,
        state="running",
        interface="v2",
        wanted=True,
        declared=Limits(),
        in_force=Limits(),
        drift=[],
        trouble="",
        starts=1,
    )
    return replace(known, **others)


def kill_mps(host: SoftwareHost) -> int:
    """SIGKILL to the control daemon of a software host; its pid, once it has ended."""
    pid = host.mps_pid()
    assert pid is not None
    end = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(end, signal.SIGKILL)
        assert select.select([end], [], [], PATIENCE_S)[0], "it has not ended"
    finally:
        os.close(end)
    return pid
