# SPDX-License-Identifier: Apache-2.0
"""A software GPU host with a process of the tenant chat, inside a booted system.

    systemd_vault_guest.py DIRECTORY SOCKET

It says "up", then has the process do each line of its standard input, and answers with what came of that; "again" ends
the process and starts another.
"""

import sys
from pathlib import Path

from mpsafe.soft.host import SoftwareHost
from vault_process import VaultProcess


def main() -> int:
    """As the module says."""
    directory, socket = sys.argv[1:]
    with SoftwareHost(Path(directory)) as host:
        host.start_mps()
        print("ready", flush=True)
        process = None
        try:
            for line in sys.stdin:
                if line == "again\n":
                    if process is not None:
                        process.__exit__(None, None, None)
                    process = VaultProcess(host, "chat", socket)
                    print("up", flush=True)
                elif process is not None:
                    process.begin(line.strip())
                    print(process.answer(), flush=True)
        finally:
            if process is not None:
                process.__exit__(None, None, None)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
