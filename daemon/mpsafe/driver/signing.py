# SPDX-License-Identifier: Apache-2.0
"""Secure Boot, and the key that DKMS signs modules with: what has to fit for a module to load."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mpsafe.driver.programs import find

__all__ = ["Signing", "signing"]

# UEFI 2.10, 3.3: the global variable SecureBoot, one byte behind four of attributes.
SECURE_BOOT: Final = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# DKMS 3's own, and Ubuntu's (shim-signed), which DKMS uses there.
CERTIFICATES: Final = ("var/lib/dkms/mok.pub", "var/lib/shim-signed/mok/MOK.der")
DEADLINE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Signing:
    """`secure_boot`: None on a machine without UEFI. `enrolled`: None where mokutil cannot tell."""

    secure_boot: bool | None
    certificate: str = ""
    enrolled: bool | None = None


def signing(root: Path = Path("/")) -> Signing:
    """What this machine demands and has; needs no rights."""
    found = [path for name in CERTIFICATES if (path := root / name).is_file()]
    certificate = found[-1] if found else None
    return Signing(
        _secure_boot(root), f"/{certificate.relative_to(root)}" if certificate else "", _enrolled(certificate)
    )


def _secure_boot(root: Path) -> bool | None:
    try:
        value = (root / SECURE_BOOT).read_bytes()
    except OSError:
        return None
    return value[4:5] == b"\1"


def _enrolled(certificate: Path | None) -> bool | None:
    program = find("mokutil")
    if certificate is None or program is None:
        return None
    command = [program, "--test-key", os.fspath(certificate)]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    if "already enrolled" in told:
        return True
    return False if "not enrolled" in told else None
