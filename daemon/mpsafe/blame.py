# SPDX-License-Identifier: Apache-2.0
"""Why an event's client is blamed, or why nobody is, in sentences. Pure: the event says it all.

The order of belief is the fusion's (ARCHITECTURE, "From a signal to an action"): what the kernel
records, MPS's own log, the pid in an Xid line, what a process says of itself, that it has ended.
"""

from collections.abc import Iterable
from typing import Final

from mpsafe.model import Blame, Event, Evidence, EvidenceSource

__all__ = ["because"]

# Strongest first; the last two never name a cause: NVML tells no process, and who ends may be a victim.
_STRONGEST_FIRST: Final[tuple[EvidenceSource, ...]] = ("kernel_record", "server_log", "xid_pid", "self_report")

_SAYS: Final[dict[EvidenceSource, str]] = {
    "kernel_record": "the driver's own record of the fault",
    "server_log": "the log of the MPS server",
    "xid_pid": "the Xid line of the kernel log",
    "nvml": "NVML",
    "self_report": "a process's report about itself",
    "exit": "the end of a process",
}


def because(event: Event) -> list[str]:
    """A few sentences. Where an event has evidence of several kinds, what the weaker one says is told too."""
    told = [*_blamed(event.blame), *_disagreeing(event.blame)] if event.blame.client is not None else _nobody(event)
    if event.lost_signals:
        told.append(f"{event.lost_signals} signals were lost while it was open: what they said is not known.")
    return told


def _blamed(blame: Blame) -> list[str]:
    assert blame.client is not None
    who = f"{blame.tenant or blame.name or 'the process'} ({blame.client.pid})"
    naming = [evidence for evidence in blame.evidence if evidence.pid == blame.client.pid]
    strongest = _strongest(naming)
    if strongest is None:
        return [f"{who} is blamed; the evidence is not shown to you."]
    if strongest == "self_report":
        return [f"{who} is named by a request or a report, and by nothing that it could not have said itself."]
    others = [_SAYS[source] for source in _sources(naming) if source in _STRONGEST_FIRST and source != strongest]
    also = f", and {_listed(others)} agrees" if len(others) == 1 else f", and {_listed(others)} agree" if others else ""
    return [f"{who} is blamed because {_SAYS[strongest]} names it{also}."]


def _disagreeing(blame: Blame) -> list[str]:
    assert blame.client is not None
    naming = [evidence for evidence in blame.evidence if evidence.source in _STRONGEST_FIRST]
    against = [evidence for evidence in naming if evidence.pid not in (None, blame.client.pid)]
    return [
        f"{_sentence(_SAYS[evidence.source])} names process {evidence.pid} instead: believed less, or no client."
        for evidence in against
    ]


def _nobody(event: Event) -> list[str]:
    evidence = event.blame.evidence
    if event.fault is None:
        return ["Nobody is blamed: it is no fault."]
    if not evidence:
        return ["Nobody is blamed: no evidence is known, or it is not shown to you."]
    strongest = _strongest([one for one in evidence if one.pid is not None])
    if strongest is None:
        sources = _listed([_SAYS[source] for source in _sources(evidence)])
        return [f"Nobody is blamed: {sources} told of the fault, and not whose it was."]
    pids = sorted({one.pid for one in evidence if one.source == strongest and one.pid is not None})
    if len(pids) > 1:
        named = _listed([str(pid) for pid in pids])
        return [
            f"Nobody is blamed: {_SAYS[strongest]} names processes {named}, and nothing stronger says which it was."
        ]
    return [f"Nobody is blamed: {_SAYS[strongest]} names process {pids[0]}, which was no client of an MPS server then."]


def _strongest(evidence: Iterable[Evidence]) -> EvidenceSource | None:
    there = {one.source for one in evidence}
    return next((source for source in _STRONGEST_FIRST if source in there), None)


def _sources(evidence: Iterable[Evidence]) -> list[EvidenceSource]:
    """Each once, in the order in which they came."""
    return list(dict.fromkeys(one.source for one in evidence))


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
