# SPDX-License-Identifier: Apache-2.0
"""A software GPU host with one tenant, inside a booted system: python systemd_guest.py DIRECTORY

It says the tenant's pid, then answers what it is told on standard input: "wait" with how the tenant has
ended, "free" once nobody owns the driver's device, and each fault as tenant_process.py does.
"""

import sys
from pathlib import Path

from contract.mps_rig import eventually
from mpsafe.errors import SourceLost
from mpsafe.soft.host import SoftwareHost
from mpsafed.driver.software import SoftwareDriver
from tenant_process import Tenant

# So long may nobody beat the heart: what is tested is not how fast a daemon comes back.
HEARTBEAT_MS = 600_000


def is_free(host: SoftwareHost) -> bool:
    """Whether nobody owns the device: we may, and lose nothing by it."""
    try:
        SoftwareDriver(host.driver).close()
    except (SourceLost, ConnectionError):
        return False
    return True


def answer(host: SoftwareHost, tenant: Tenant, command: str) -> str:
    match command:
        case "wait":
            return str(tenant.wait())
        case "free":
            eventually(lambda: is_free(host), "the device is let go of")
            return "ok"
        case fault:
            return tenant.do(fault)


def main() -> int:
    """As the module says."""
    with SoftwareHost(Path(sys.argv[1]), heartbeat_ms=HEARTBEAT_MS) as host:
        host.start_mps()
        with Tenant(host, "embed") as tenant:
            assert tenant.do("linger") == "ok"
            assert tenant.do("work") == "ok"
            print(tenant.pid, flush=True)
            for line in sys.stdin:
                print(answer(host, tenant, line.strip()), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
