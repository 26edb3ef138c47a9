# SPDX-License-Identifier: Apache-2.0
"""This test will compare the man pages and the sample configuration with the code that they describe."""

import dataclasses
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import mpsafe.cli
from mpsafe import model
from mpsafe.arena.board.rows import Board, Row
from mpsafe.arena.live.figures import LiveFigures, Verdict
from mpsafe.arena.pairing import Paired, Pairing
from mpsafe.arena.regrade import Regrade
from mpsafe.arena.validation import Problem
from mpsafe.cli import cli
from mpsafe.cli.tenants import TenantLine
from mpsafe.doctor.finding import Finding
from mpsafe.experts.comparison import Arm, Comparison, Interval
from mpsafe.experts.simulation import PolicyResult
from mpsafe.operators.comparison import Arm as ControllerArm
from mpsafe.operators.comparison import Attribution, Spread
from mpsafe.operators.model import Placed, PoolPlan
from mpsafe.operators.simulator.run import Outcome, Percentiles
from mpsafe.protocol.host import Description
from mpsafe.protocol.leases import Lease, Span
from mpsafe.protocol.store import Content
from mpsafe.protocol.vault import VaultState
from mpsafed import config

SYSTEMD = Path(__file__).parent.parent / "systemd"
TABLES = [field for field in dataclasses.fields(config.Config) if field.name not in ("limits", "tenant")]
OBJECTS = {
    "action": model.Action,
    "blame": model.Blame,
    "client": model.Client,
    "content": Content,
    "control": model.ControlDaemon,
    "device": model.Device,
    "event": model.Event,
    "evidence": model.Evidence,
    "fault": model.Fault,
    "finding": Finding,
    "host": Description,
    "identity": model.Identity,
    "lease": Lease,
    "limits": model.Limits,
    "region": model.Region,
    "server": model.Server,
    "source": model.SourceState,
    "span": Span,
    "standby": model.Standby,
    "takeover": model.Takeover,
    "board": Board,
    "row": Row,
    "live figures": LiveFigures,
    "verdict": Verdict,
    "pairing": Pairing,
    "paired figure": Paired,
    "problem": Problem,
    "regrade": Regrade,
    "pool": PoolPlan,
    "placed": Placed,
    "outcome": Outcome,
    "percentiles": Percentiles,
    "controller": ControllerArm,
    "attribution": Attribution,
    "spread": Spread,
    "policy result": PolicyResult,
    "comparison": Comparison,
    "arm": Arm,
    "interval": Interval,
    "vault": VaultState,
    "figures": model.Figures,
    "tenant": model.Tenant,
    "tenant line": TenantLine,
}


def page(name: str) -> str:
    return (SYSTEMD / "man" / name).read_text()


def names(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        elif command is not None:
            yield (*path, name), command


@pytest.mark.parametrize(("path", "command"), [pytest.param(*each, id=" ".join(each[0])) for each in commands(cli)])
def test_each_option_is_in_the_man_page(path: tuple[str, ...], command: click.Command) -> None:
    synopsis = page("mpsafe.1").split(f".Cm {' '.join(path)}\n")[1].split(".Nm\n")[0].split(".Sh ")[0]
    listed = set(re.findall(r"Fl -(\w[\w-]*)", synopsis)) | {"socket"}
    given = [option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]]
    options = [option.removeprefix("--") for option in given if option[:2] == "--"]
    assert listed - set(options) - {"socket"} == set()
    assert set(options) - listed == set()


def test_each_option_of_the_daemon_is_in_its_man_page() -> None:
    command = [sys.executable, "-m", "mpsafed.main", "--help"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    synopsis = page("mpsafed.8").split(".Sh SYNOPSIS")[1].split(".Sh ")[0]
    assert set(re.findall(r"--(\w[\w-]*)", told)) - {"help"} == set(re.findall(r"Fl -(\w[\w-]*)", synopsis))


def test_sample_shows_the_defaults(tmp_path: Path) -> None:
    sample = (SYSTEMD / "mpsafe.toml").read_text()
    assert config.load(SYSTEMD / "mpsafe.toml") == config.Config()
    uncommented = tmp_path / "mpsafe.toml"
    uncommented.write_text(re.sub(r"^# (?=\w+ = |\[\[)", "", sample, flags=re.MULTILINE))
    loaded = config.load(uncommented)
    assert (len(loaded.tenant), len(loaded.limits)) == (1, 1)
    assert dataclasses.replace(loaded, tenant=[], limits=[]) == config.Config()


@pytest.mark.parametrize("field", TABLES, ids=lambda field: field.name)
def test_each_key_is_in_the_sample_and_in_its_man_page(field: "dataclasses.Field[typing.Any]") -> None:
    keys = names(typing.cast("type", field.type))
    sample = (SYSTEMD / "mpsafe.toml").read_text().split(f"[{field.name}]\n")[1].split("[")[0]
    assert set(re.findall(r"^# (\w+) = ", sample, re.MULTILINE)) == keys
    section = page("mpsafe.toml.5").split(f".Ss [{field.name}]\n")[1].split(".Ss ")[0]
    assert set(re.findall(r"^\.It Va (\w+)$", section, re.MULTILINE)) == keys


@pytest.mark.parametrize(("table", "cls"), [("limits", config.LimitsConfig), ("tenant", config.TenantConfig)])
def test_each_key_of_a_list_is_in_the_man_page(table: str, cls: type) -> None:
    section = re.split(r"^\.S[hs] ", page("mpsafe.toml.5").split(f".Ss [[{table}]]\n")[1], flags=re.MULTILINE)[0]
    assert set(re.findall(r"^\.It Va (\w+)$", section, re.MULTILINE)) == names(cls)


@pytest.mark.parametrize(("title", "cls"), OBJECTS.items())
def test_each_object_is_documented(title: str, cls: type) -> None:
    section = re.split(r"^\.S[hs] ", page("mpsafe-json.7").split(f".Ss {title}\n")[1], flags=re.MULTILINE)[0]
    listed = re.findall(r"^\.It Va (\w+(?: , \w+)*)$", section, re.MULTILINE)
    assert {name for line in listed for name in line.split(" , ")} == names(cls)


def test_each_shape_is_documented() -> None:
    """What the commands print, and what the page has, are the same shapes."""
    sources = (Path(mpsafe.cli.__file__).parent).glob("*.py")
    printed = {shape for source in sources for shape in re.findall(r"\bmpsafe\.\w+/\d+", source.read_text())}
    assert printed == set(re.findall(r"\bmpsafe\.\w+/\d+", page("mpsafe-json.7")))
