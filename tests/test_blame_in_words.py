# SPDX-License-Identifier: Apache-2.0
"""This test will read the sentences that say why a client is blamed, or why nobody is."""

import pytest

from mpsafe.blame import because
from mpsafe.model import Blame, Event, Evidence, EvidenceSource, Fault, Identity

GUILTY = Identity(10, 1)
RECORD = Evidence("kernel_record", "pde fault", 10)
LOG = Evidence("server_log", "Client 10 ...", 10)
XID = Evidence("xid_pid", "NVRM: Xid ...", 10)
EXIT = Evidence("exit", "the process has ended", 10)
REPORT = Evidence("self_report", "asked for by uid 0", 10)


def other(source: EvidenceSource, pid: int | None) -> Evidence:
    return Evidence(source, "another", pid)


def fault(*evidence: Evidence, client: Identity | None = GUILTY, lost: int = 0) -> Event:
    blame = Blame(client, "python" if client else None, "chat" if client else None, list(evidence))
    return Event(
        5, 5, 1, "fault", "open", "a fault", fault=Fault("mmu", absorbed=False), blame=blame, lost_signals=lost
    )


@pytest.mark.parametrize(
    ("event", "sentences"),
    [
        pytest.param(
            fault(RECORD, EXIT),
            ["chat (10) is blamed because the driver's own record of the fault names it."],
            id="an end is no evidence",
        ),
        pytest.param(
            fault(EXIT, XID, LOG),
            [
                "chat (10) is blamed because the log of the MPS server names it, and the Xid line of the kernel log "
                "agrees."
            ],
            id="two that agree, the stronger first",
        ),
        pytest.param(
            fault(RECORD, LOG, XID),
            [
                "chat (10) is blamed because the driver's own record of the fault names it, and the log of the MPS "
                "server and the Xid line of the kernel log agree."
            ],
            id="three",
        ),
        pytest.param(
            fault(LOG, other("xid_pid", 11)),
            [
                "chat (10) is blamed because the log of the MPS server names it.",
                "The Xid line of the kernel log names process 11 instead: believed less, or no client.",
            ],
            id="one that disagrees",
        ),
        pytest.param(
            fault(REPORT),
            ["chat (10) is named by a request or a report, and by nothing that it could not have said itself."],
            id="a request",
        ),
        pytest.param(fault(), ["chat (10) is blamed; the evidence is not shown to you."], id="hidden"),
        pytest.param(
            fault(other("server_log", None), other("nvml", None), EXIT, client=None),
            [
                "Nobody is blamed: the log of the MPS server, NVML and the end of a process told of the fault, and not "
                "whose it was."
            ],
            id="nobody is named",
        ),
        pytest.param(
            fault(XID, other("xid_pid", 11), client=None),
            [
                "Nobody is blamed: the Xid line of the kernel log names processes 10 and 11, and nothing stronger says "
                "which it was."
            ],
            id="two are named",
        ),
        pytest.param(
            fault(XID, client=None),
            [
                "Nobody is blamed: the Xid line of the kernel log names process 10, which was no client of an MPS "
                "server then."
            ],
            id="no client",
        ),
        pytest.param(
            fault(client=None, lost=3),
            [
                "Nobody is blamed: no evidence is known, or it is not shown to you.",
                "3 signals were lost while it was open: what they said is not known.",
            ],
            id="nothing is known",
        ),
        pytest.param(
            Event(5, 5, 1, "exit", "closed", "chat has left", blame=Blame(evidence=[EXIT])),
            ["Nobody is blamed: it is no fault."],
            id="no fault",
        ),
    ],
)
def test_sentences(event: Event, sentences: list[str]) -> None:
    assert because(event) == sentences
