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
            fault(RECORD, LOG, other("xid_pid", 11)),
            [
                "chat (10) is blamed because the driver's own record of the fault names it.",
                "The Xid line of the kernel log names process 11: under MPS that is the client that came last, or its "
                "server.",
            ],
            id="one that names another",
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
            fault(XID, LOG, XID, client=None),
            [
                "Nobody is blamed: the Xid line of the kernel log and the log of the MPS server told of the fault, and "
                "not whose it was.",
                "The Xid line of the kernel log names process 10: under MPS that is the client that came last, or its "
                "server.",
                "The log of the MPS server names process 10: under MPS that is the client that met the error first.",
            ],
            id="hints",
        ),
        pytest.param(
            fault(RECORD, other("kernel_record", 11), client=None),
            ["Nobody is blamed: the driver's own record of the fault names processes 10 and 11."],
            id="two records",
        ),
        pytest.param(
            fault(RECORD, client=None),
            ["Nobody is blamed: the driver's own record of the fault names process 10, which was no client then."],
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
