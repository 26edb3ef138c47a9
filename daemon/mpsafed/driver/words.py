# SPDX-License-Identifier: Apache-2.0
"""The words for the numbers of ffi/mpsafe_uapi.h."""

from typing import Final

from mpsafed.driver import ClientMode, ClientState, Mode, Place, Unit
from mpsafed.driver._uapi import lib

__all__ = ["ACCESSES", "CLIENT_MODES", "CLIENT_STATES", "FAULTS", "FEATURES", "MODES", "PLACES", "UNITS"]

MODES: Final[dict[int, Mode]] = {
    lib.MPSAFE_MODE_OFF: "off",
    lib.MPSAFE_MODE_OBSERVE: "observe",
    lib.MPSAFE_MODE_ABSORB: "absorb",
}
CLIENT_MODES: Final[dict[int, ClientMode]] = {**MODES, lib.MPSAFE_MODE_INHERIT: "inherit"}
CLIENT_STATES: Final[dict[int, ClientState]] = {
    lib.MPSAFE_CLIENT_LIVE: "live",
    lib.MPSAFE_CLIENT_DOOMED: "doomed",
    lib.MPSAFE_CLIENT_RELEASED: "released",
}
ACCESSES: Final = {
    lib.MPSAFE_ACCESS_NONE: "none",
    lib.MPSAFE_ACCESS_READ: "read",
    lib.MPSAFE_ACCESS_WRITE: "write",
    lib.MPSAFE_ACCESS_ATOMIC: "atomic",
}
FAULTS: Final = {
    lib.MPSAFE_FAULT_PDE: "pde",
    lib.MPSAFE_FAULT_PTE: "pte",
    lib.MPSAFE_FAULT_RO: "ro",
    lib.MPSAFE_FAULT_OTHER: "other",
}
PLACES: Final[dict[int, Place]] = {
    lib.MPSAFE_PLACE_UNKNOWN: "unknown",
    lib.MPSAFE_PLACE_WILD: "wild",
    lib.MPSAFE_PLACE_HOLE: "hole",
    lib.MPSAFE_PLACE_EXTERNAL: "external",
    lib.MPSAFE_PLACE_MANAGED: "managed",
    lib.MPSAFE_PLACE_CHANNEL: "channel",
}
UNITS: Final[dict[int, Unit]] = {
    lib.MPSAFE_UNIT_UNKNOWN: "unknown",
    lib.MPSAFE_UNIT_SM: "sm",
    lib.MPSAFE_UNIT_COPY: "copy",
}
FEATURES: Final = {
    lib.MPSAFE_FEATURE_REPLAYABLE: "replayable",
    lib.MPSAFE_FEATURE_NON_REPLAYABLE: "non-replayable",
    lib.MPSAFE_FEATURE_ORPHAN: "orphan",
    lib.MPSAFE_FEATURE_REFUSE: "refuse",
    lib.MPSAFE_FEATURE_HOLD: "hold",
    lib.MPSAFE_FEATURE_INJECT: "inject",
    lib.MPSAFE_FEATURE_STANDALONE: "standalone",
}
