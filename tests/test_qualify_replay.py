# SPDX-License-Identifier: Apache-2.0
"""What real GPUs answered, asked again of the software GPU; and the qualification itself, on the software GPU."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from requires import requires
from tools.qualify.finding import Finding, Qualification
from tools.qualify.kernel_log import KernelLog
from tools.qualify.machine import describe, software_target
from tools.qualify.probe import Answer, Probe
from tools.qualify.probes import PROBES
from tools.qualify.stage import NotRun, Stage, Target

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "tools" / "qualify" / "results").glob("*.json"))
BY_NAME = {probe.name: probe for probe in PROBES}


def recorded() -> dict[str, dict[str, Finding]]:
    """By probe, and by result: each committed answer that the software GPU claims to give as well."""
    found: dict[str, dict[str, Finding]] = {}
    for path in RESULTS:
        for finding in Qualification.load(path).findings.values():
            probe = BY_NAME.get(finding.name)
            if probe is not None and probe.reproduced and finding.status != "not run":
                found.setdefault(finding.name, {})[path.stem] = finding
    return found


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with software_target() as bare:
        yield describe(bare, uuid=None)[0]


def qualify(*arguments: str | Path, software: bool = True) -> subprocess.CompletedProcess[str]:
    """The command, as a user gives it."""
    chosen = ["--software"] if software else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.fspath(ROOT / "daemon"), os.fspath(ROOT)])}
    return subprocess.run(
        [sys.executable, "-m", "tools.qualify", *chosen, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@requires("soft")
@pytest.mark.parametrize("name", recorded())
def test_the_software_gpu_gives_what_real_ones_gave(target: Target, name: str) -> None:
    probe = BY_NAME[name]
    replayed = probe.run(target)
    found = {result: probe.differences(finding, replayed) for result, finding in recorded()[name].items()}
    assert not any(found.values()), found


def test_results_are_of_real_gpus() -> None:
    assert [path.name for path in RESULTS if Qualification.load(path).host.software] == []


def test_each_probe_has_a_name_and_a_question_of_its_own() -> None:
    assert len(BY_NAME) == len(PROBES)
    assert all(probe.question.endswith("?") for probe in PROBES)


@requires("soft")
def test_a_run_is_written_and_resumed(tmp_path: Path) -> None:
    """Two probes now, a third later; what is known is not asked again; a change of the outcome is seen."""
    first = qualify("--results", tmp_path, "--only", "memory_share", "--only", "fault_wild_read")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "THIS IS THE SOFTWARE GPU" in first.stdout
    (path,) = tmp_path.glob("*.json")
    known = Qualification.load(path)
    assert known.host.software
    assert sorted(known.findings) == ["fault_wild_read", "memory_share"]
    fault = known.findings["fault_wild_read"]
    assert (fault.outcome["offender"], fault.outcome["xids"], fault.outcome["xid_names"]) == (
        700,
        [31],
        ["offender"],
    )
    assert fault.outcome["bystander"] == 0
    assert "There was no silicon" in path.with_suffix(".html").read_text()

    again = qualify("--results", tmp_path, "--resume", "--only", "memory_share", "--only", "kernel_log")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "known    memory_share" in again.stdout
    assert list(tmp_path.glob("*.json")) == [path]
    resumed = Qualification.load(path)
    assert resumed.findings["memory_share"] == known.findings["memory_share"]
    assert resumed.findings["kernel_log"].outcome == {"readable": True}


@requires("soft")
def test_a_client_s_trap_is_seen_from_all_sides(target: Target) -> None:
    finding = BY_NAME["mps_fault_trap"].run(target)
    assert finding.status == "ok", finding.reason
    assert finding.outcome["offender"] == finding.outcome["bystander"] == 719
    assert finding.outcome["outsider"] == 0
    assert (finding.outcome["server_state"], finding.outcome["newcomer"]) == ("FAULT", 807)
    assert (finding.outcome["xids"], finding.outcome["xid_names"]) == ([43], ["server"])
    assert any("to be torn down" in line for line in finding.raw["logs"]["server.log"])


def test_a_difference_is_named() -> None:
    probe = Probe("p", "?", lambda stage, answer: None, reproduced=("offender", "xids"))
    real = Finding("p", "ok", outcome={"offender": 719, "xids": [13], "newcomer": 0})
    assert probe.differences(real, real) == []
    soft = dataclasses.replace(real, outcome={"offender": 719, "xids": [13, 43], "newcomer": 807})
    assert probe.differences(real, soft) == ["p: xids was [13], the software GPU gives [13, 43]"]


def bare_target(kernel_log: Path) -> Target:
    """A machine of which no probe here asks for a device."""
    return Target(os.environ, "", kernel_log, software=True, first_xid_s=0.1, quiet_s=0.0)


def test_a_probe_that_breaks_keeps_what_it_had(tmp_path: Path) -> None:
    def breaks(stage: Stage, answer: Answer) -> None:
        answer.outcome["seen"] = 1
        raise ZeroDivisionError("far from here")

    finding = Probe("p", "?", breaks).run(bare_target(tmp_path / "kmsg"))
    assert finding.status == "failed"
    assert "far from here" in finding.reason
    assert finding.outcome == {"seen": 1}


def test_a_probe_that_cannot_be_run_says_why(tmp_path: Path) -> None:
    def refuses(stage: Stage, answer: Answer) -> None:
        raise NotRun("no such thing here")

    finding = Probe("p", "?", refuses).run(bare_target(tmp_path / "kmsg"))
    assert (finding.status, finding.reason) == ("not run", "no such thing here")


@requires("soft")
def test_a_probe_ends_at_its_deadline(target: Target) -> None:
    def waits(stage: Stage, answer: Answer) -> None:
        stage.open("endless one").ask("endless")
        while True:
            stage.start("idle one").ask("describe")

    finding = Probe("p", "?", waits, limit_s=2).run(target)
    assert finding.status == "failed"
    assert "2 s" in finding.reason or "did not answer" in finding.reason


def test_the_kernel_log_is_read_from_now_on(tmp_path: Path) -> None:
    kmsg = tmp_path / "kmsg"
    kmsg.write_text("3,1,1,-;NVRM: Xid (PCI:0000:01:00): 79, before\n")
    with KernelLog(kmsg) as log, kmsg.open("a") as file:
        file.write("6,2,2,-;usb 1-1: new device\n3,3,3,-;NVRM: Xid (PCI:0000:01:00): 13, pid=42, name=a, text\n")
        file.write("3,4,4,-;NVRM: Xid (PCI:0000:01:00 GPU-I:01): 45, pid='<unknown>', name=<unknown>, Ch 1\n3,5,5")
        file.flush()
        log.settle(first_s=10, quiet_s=0.05)
        file.write(",-;NVRM: Xid (PCI:0000:01:00): 31, pid=43, name=b\n")
        file.flush()
        while len(log.xids()) < 3:
            log.settle(first_s=10, quiet_s=0.05)
        assert [(xid.xid, xid.pid) for xid in log.xids()] == [(13, 42), (45, None), (31, 43)]
        assert len(log.driver_lines()) == 3


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", json.dumps({"format": "mpsafe-qualify", "version": 2})])
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"result\.json is no mpsafe-qualify of version 1"):
        Qualification.load(path)


def test_the_probes_are_listed_and_an_unknown_one_is_refused() -> None:
    listed = qualify("--list", software=False)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(BY_NAME)
    unknown = qualify("--only", "nobody", software=False)
    assert (unknown.returncode, unknown.stderr) == (2, "no probe is named nobody; --list names them\n")


def test_a_machine_without_a_gpu_is_told(tmp_path: Path) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    refused = qualify("--results", tmp_path, software=False)
    assert refused.returncode == 77
    assert refused.stderr.startswith("cannot qualify this machine: ")
    assert list(tmp_path.iterdir()) == []
