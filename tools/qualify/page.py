# SPDX-License-Identifier: Apache-2.0
"""A qualification as one HTML page that needs nothing beside it."""

import html
import json
from collections.abc import Iterable
from typing import Final

from tools.qualify.finding import Finding, Json, Qualification
from tools.qualify.probe import Probe

__all__ = ["render"]

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 2rem 0 0 }
.software { background: #7a1f00; color: #fff; padding: .8rem 1rem; font-weight: 600 }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 }
td, th { text-align: left; vertical-align: top; padding: .25rem .6rem; border-bottom: 1px solid #ddd }
th { font-weight: 500; width: 16rem } code, pre { font: 13px/1.45 ui-monospace, monospace }
pre { background: #f5f5f3; padding: .6rem; overflow-x: auto; margin: .3rem 0 }
.ok { color: #1d6b2c } .failed { color: #a31515 } .not-run { color: #75633a }
"""


def _rows(values: Json) -> str:
    return "".join(
        f"<tr><th>{html.escape(key.replace('_', ' '))}</th>"
        f"<td><code>{html.escape(json.dumps(value, ensure_ascii=False))}</code></td></tr>"
        for key, value in values.items()
    )


def _status(finding: Finding) -> str:
    return f'<span class="{finding.status.replace(" ", "-")}">{finding.status}</span>'


def _section(probe: Probe, finding: Finding) -> str:
    raw = "".join(
        f"<details><summary>{html.escape(name)}</summary><pre>"
        f"{html.escape(json.dumps(text, indent=1, ensure_ascii=False))}</pre></details>"
        for name, text in finding.raw.items()
    )
    reason = f"<p>{html.escape(finding.reason)}</p>" if finding.reason else ""
    return (
        f'<h2 id="{probe.name}">{probe.name}: {_status(finding)}</h2><p>{html.escape(probe.question)}</p>{reason}'
        f"<table>{_rows(finding.outcome)}{_rows(finding.measured)}</table>{raw}"
    )


def render(qualification: Qualification, probes: Iterable[Probe]) -> str:
    """The page. Probes without a finding are named as not run yet."""
    host = qualification.host
    title = f"mpsafe on {host.device}, driver {host.driver}"
    banner = (
        '<p class="software">This ran on the software GPU. There was no silicon: no figure below comes from a GPU.</p>'
        if host.software
        else ""
    )
    summary: list[str] = []
    sections: list[str] = []
    for probe in probes:
        finding = qualification.findings.get(probe.name) or Finding(probe.name, "not run", reason="not asked yet")
        summary.append(
            f'<tr><td><a href="#{probe.name}">{probe.name}</a></td><td>{_status(finding)}</td>'
            f"<td>{html.escape(finding.reason)}</td><td>{finding.seconds:.1f} s</td></tr>"
        )
        sections.append(_section(probe, finding))
    facts = {
        "date": qualification.date,
        "device": host.device,
        "driver": host.driver,
        "CUDA": host.cuda,
        "kernel": host.kernel,
        "CPUs": host.cpus,
        "under a hypervisor": host.hypervisor,
        "Python": host.python,
    }
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{banner}<table>{_rows(facts)}</table>"
        f"<table>{''.join(summary)}</table>{''.join(sections)}</html>\n"
    )
