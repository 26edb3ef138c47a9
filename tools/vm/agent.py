# SPDX-License-Identifier: Apache-2.0
"""In the guest: runs what the host asks, one command after the other. A line is a request, a line is its answer.

    {"argv": [...], "input": "...", "limit_s": 60}  ->  {"status": 0, "stdout": "...", "stderr": "..."}

`status` is negative for a signal, and null where the command did not end in time and was killed.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

PORT = Path("/dev/vport0p1")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Runs one command."""
    try:
        done = subprocess.run(
            request["argv"],
            input=request["input"],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=request["limit_s"],
            env=ENVIRONMENT,
            cwd="/srv/mpsafe",
        )
    except subprocess.TimeoutExpired as late:
        return {"status": None, "stdout": _text(late.stdout), "stderr": _text(late.stderr)}
    except OSError as error:
        return {"status": 127, "stdout": "", "stderr": str(error)}
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def main() -> None:
    """Serves until the host hangs up."""
    fd = os.open(PORT, os.O_RDWR | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as requests, os.fdopen(os.dup(fd), "wb", buffering=0) as answers:
        answers.write(b"{}\n")
        for line in requests:
            reply = memoryview(json.dumps(answer(json.loads(line))).encode() + b"\n")
            while reply:
                reply = reply[answers.write(reply) :]


if __name__ == "__main__":
    main()
