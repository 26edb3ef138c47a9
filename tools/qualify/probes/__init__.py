# SPDX-License-Identifier: Apache-2.0
"""All probes, in the order in which they are run: what can hurt comes last."""

from typing import Final

from tools.qualify.probe import Probe
from tools.qualify.probes.contracts import CONTRACTS
from tools.qualify.probes.costs import COSTS
from tools.qualify.probes.events import EVENTS
from tools.qualify.probes.experts import EXPERTS
from tools.qualify.probes.faults import FAULTS_ALONE
from tools.qualify.probes.host import HOST
from tools.qualify.probes.memory import MEMORY
from tools.qualify.probes.mps_faults import MPS_FAULTS
from tools.qualify.probes.proof import PROOF
from tools.qualify.probes.takeover import TAKEOVER
from tools.qualify.probes.terminate import TERMINATE

__all__ = ["PROBES"]

PROBES: Final[tuple[Probe, ...]] = (
    *HOST,
    *CONTRACTS,
    *MEMORY,
    *COSTS,
    *EXPERTS,
    *EVENTS,
    *FAULTS_ALONE,
    *TERMINATE,
    *PROOF,
    *MPS_FAULTS,
    *TAKEOVER,
)
