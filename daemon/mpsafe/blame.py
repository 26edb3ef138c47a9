# SPDX-License-Identifier: Apache-2.0
"""Why an event's client is blamed, or why nobody is, in sentences. Pure: the event says it all.

Who may name whom is the fusion's matter (ARCHITECTURE, "From a signal to an action"): the driver's own record names
a client, or an admin does by hand; the pids of an Xid line and of a server's log are hints, and told as such.
"""

from collections.abc import Iterable
from typing import Final

from mpsafe.model import Blame, Event, Evidence, EvidenceSource

__all__ = ["because"]

_NAMES: Final[EvidenceSource] = "kernel_record"
_HINTS: Final[dict[EvidenceSource, str]] = {
    "server_log": "the client that met the error first",
    "xid_pid": "the client that came last, or its server",
}

_SAYS: Final[dict[EvidenceSource, str]] = {
    "kernel_record": "the driver's own record of the fault",
    "server_log": "the log of the MPS server",
    "xid_pid": "the Xid line of the kernel log",
    "nvml": "NVML",
    "self_report": "a process's report about itself",
    "exit": "the end of a process",
}


def because(event: Event) -> list[str]:
    """A few sentences. What the sources say that may not name anybody is told too, and why it does not count."""
    told = _blamed(event.blame) if event.blame.client is not None else _nobody(event)
    if event.lost_signals:
        told.append(f"{event.lost_signals} signals were lost while it was open: what they said is not known.")
    return told


def _blamed(blame: Blame) -> list[str]:
    assert blame.client is not None
    who = f"{blame.tenant or blame.name or 'the process'} ({blame.client.pid})"
    naming = {evidence.source for evidence in blame.evidence if evidence.pid == blame.client.pid}
    if _NAMES in naming:
        others = [evidence for evidence in blame.evidence if evidence.pid != blame.client.pid]
        return [f"{who} is blamed because {_SAYS[_NAMES]} names it.", *_hints(others)]
    if "self_report" in naming:
        return [f"{who} is named by a request or a report, and by nothing that it could not have said itself."]
    return [f"{who} is blamed; the evidence is not shown to you."]


def _nobody(event: Event) -> list[str]:
    evidence = event.blame.evidence
    if event.fault is None:
        return ["Nobody is blamed: it is no fault."]
    if not evidence:
        return ["Nobody is blamed: no evidence is known, or it is not shown to you."]
    recorded = sorted({one.pid for one in evidence if one.source == _NAMES and one.pid is not None})
    if len(recorded) > 1:
        return [f"Nobody is blamed: {_SAYS[_NAMES]} names processes {_listed([str(pid) for pid in recorded])}."]
    if recorded:
        return [f"Nobody is blamed: {_SAYS[_NAMES]} names process {recorded[0]}, which was no client then."]
    sources = _listed(list(dict.fromkeys(_SAYS[one.source] for one in evidence)))
    return [f"Nobody is blamed: {sources} told of the fault, and not whose it was.", *_hints(evidence)]


def _hints(evidence: Iterable[Evidence]) -> list[str]:
    """What the sources say whose pids are no proof."""
    told: dict[str, None] = {}
    for one in evidence:
        if (hint := _HINTS.get(one.source)) is not None and one.pid is not None:
            told[f"{_sentence(_SAYS[one.source])} names process {one.pid}: under MPS that is {hint}."] = None
    return list(told)


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
