# SPDX-License-Identifier: Apache-2.0
"""mpsafe operators simulate and compare: what a controller would have made of a trace."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec
from rich.console import Console
from rich.progress import Progress

from mpsafe.cli.options import console, json_option, print_json, table
from mpsafe.errors import BadRequest
from mpsafe.operators.comparison import Fleets, Spread, compare
from mpsafe.operators.controllers import CONTROLLERS
from mpsafe.operators.model import Slo
from mpsafe.operators.profiles import open_profile
from mpsafe.operators.replay import Scenario, load
from mpsafe.operators.report import Setting, page
from mpsafe.operators.simulator.run import Outcome
from mpsafe.operators.specs import load as load_spec

__all__ = ["compare_fleets", "simulate"]

COPIES_MAX: Final = 1024
DEVICES_MAX: Final = 2048

F = TypeVar("F", bound=Callable[..., Any])


def _scenario_options(command: F) -> F:
    for option in (
        click.option("--html", "out", type=click.Path(dir_okay=False, path_type=Path), help="write a page there"),
        click.option("--devices", type=click.IntRange(1, DEVICES_MAX), help="the most GPUs; else as many as it takes"),
        click.option("--interval", type=click.FloatRange(1), help="seconds between decisions; else the controller's"),
        click.option("--slo", required=True, help="the promise: ttft_ms=1000,tbt_ms=100"),
        click.option("--profile", "directory", required=True, help="a folder of tables, as aiconfigurator/h200_sxm"),
        click.option("--model", required=True, help="a config.json of Hugging Face, or a built-in name"),
        click.option(
            "--trace", type=click.Path(path_type=Path), required=True, help="requests: Azure's CSV, or Mooncake's lines"
        ),
        json_option,
    ):
        command = option(command)
    return command


@click.command()
@_scenario_options
@click.option("--controller", type=click.Choice(list(CONTROLLERS)), required=True, help="who decides what runs")
@click.option("--copies", default=1, show_default=True, type=click.IntRange(1, COPIES_MAX), help="of the trace, turned")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="of how the copies are turned")
def simulate(
    as_json: bool,
    trace: Path,
    model: str,
    directory: str,
    slo: str,
    interval: float | None,
    devices: int | None,
    out: Path | None,
    controller: str,
    copies: int,
    seed: int,
) -> None:
    """Replay a trace on a simulated fleet, request by request, under one controller.

    A controller decides how many workers of what run where. operator, pd, attn-ffn and model-fast decide each second,
    model each 20 s and waits 10.7 s for a replica; static has one plan for the busiest minute.
    """
    scenario = Scenario(load_spec(model), open_profile(directory), _promise(slo), devices)
    requests = load(trace, copies, seed)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("simulated time", total=1.0)
        run = scenario.replay(
            requests,
            CONTROLLERS[controller],
            interval_s=interval,
            progress=lambda part: progress.update(task, completed=part),
        )
    if out is not None:
        setting = _setting(scenario, requests.name, [seed], interval, devices)
        out.write_text(page(setting, Fleets([], [], [(copies, run)])), encoding="utf-8")
    if as_json:
        click.echo(msgspec.json.encode(run.outcome))
    else:
        _tell(run.outcome)


@click.command("compare")
@_scenario_options
@click.option("--controllers", default=",".join(CONTROLLERS), show_default=True, help="some of them")
@click.option("--copies", default="1", show_default=True, help="of the trace, some numbers, like 1,4,16")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1, 100), help="so many, from 1 on")
def compare_fleets(
    as_json: bool,
    trace: Path,
    model: str,
    directory: str,
    slo: str,
    interval: float | None,
    devices: int | None,
    out: Path | None,
    controllers: str,
    copies: str,
    seeds: int,
) -> None:
    """Replay a trace under each controller, with intervals over seeds, and say where the difference comes from."""
    scenario = Scenario(load_spec(model), open_profile(directory), _promise(slo), devices)
    names, numbers = _names(controllers), _numbers(copies)
    traces = functools.lru_cache(maxsize=2 * seeds)(functools.partial(load, trace))
    traces(1, 1)  # a file that cannot be read is said before anything runs
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("runs", total=None)
        found = compare(
            scenario,
            traces,
            controllers=names,
            copies=numbers,
            seeds=range(1, seeds + 1),
            interval_s=interval,
            done=lambda: progress.advance(task),
        )
    if out is not None:
        setting = _setting(scenario, trace.name, range(1, seeds + 1), interval, devices)
        out.write_text(page(setting, found), encoding="utf-8")
    if as_json:
        print_json("mpsafe.fleets/1", arms=found.arms, attributions=found.attributions)
    else:
        _compared(found)


def _promise(text: str) -> Slo:
    try:
        given = {name: float(value) for name, _, value in (part.partition("=") for part in text.split(","))}
    except ValueError:
        given = {}
    if set(given) != {"ttft_ms", "tbt_ms"} or not all(0 < value < 1e9 for value in given.values()):
        raise BadRequest("slo", "two positive times, like ttft_ms=1000,tbt_ms=100", repr(text))
    return Slo(ttft_s=given["ttft_ms"] / 1000, tbt_s=given["tbt_ms"] / 1000)


def _names(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in CONTROLLERS]:
        raise BadRequest("controllers", f"some of {', '.join(CONTROLLERS)}", repr(unknown[0]))
    return names


def _numbers(text: str) -> list[int]:
    parts = list(dict.fromkeys(text.split(",")))
    if not all(part.isascii() and part.isdecimal() and 1 <= int(part) <= COPIES_MAX for part in parts):
        raise BadRequest("copies", f"numbers from 1 to {COPIES_MAX}, like 1,4,16", repr(text))
    return [int(part) for part in parts]


def _setting(
    scenario: Scenario, trace: str, seeds: "list[int] | range", interval: float | None, devices: int | None
) -> Setting:
    return Setting(
        trace=trace,
        model=scenario.spec.name,
        profile=scenario.profile.name,
        device=scenario.profile.device,
        slo=scenario.slo,
        seeds=seeds,
        interval_s=interval,
        devices=devices,
        notes=scenario.profile.notes.said,
    )


def _tell(outcome: Outcome) -> None:
    out = console()
    out.print(f"{outcome.controller}: {outcome.requests} requests, simulated in {outcome.sim_seconds:.2f} s")
    out.print(
        f"{outcome.gpu_hours:.2f} GPU hours, at most {outcome.max_gpus} GPUs, {outcome.energy_kwh:.2f} kWh (modelled), "
        f"{outcome.changes} workers started or stopped"
    )
    shown = table("", "ms", "mean#", "p50#", "p99#")
    for name, found in (("first token", outcome.ttft_ms), ("between tokens", outcome.tbt_ms)):
        shown.add_row(name, f"{found.mean:.1f}", f"{found.p50:.1f}", f"{found.p99:.1f}")
    out.print(shown)
    out.print(f"{100 * outcome.attainment:.2f} % of the requests got what was promised")


def _compared(found: Fleets) -> None:
    out = console()
    heads = ("controller", "copies#", "GPU hours#", "kWh#", "TTFT p99#", "TBT p99#", "kept %#", "changes#")
    shown = table("times in ms; what is saved, in % of GPU hours", *heads, "of model-fast#", "of model#")
    for arm in found.arms:
        shown.add_row(
            arm.controller,
            str(arm.copies),
            _spread(arm.gpu_hours, 2),
            _spread(arm.energy_kwh, 2),
            _spread(arm.ttft_p99_ms, 0),
            _spread(arm.tbt_p99_ms, 1),
            _spread(arm.attainment, 2, 100),
            f"{arm.changes.mean:.0f}",
            _spread(arm.saved_of_fast, 1, 100),
            _spread(arm.saved_of_model, 1, 100),
        )
    out.print(shown)
    if found.attributions:
        parts = table(
            "of model's GPU hours, % saved by",
            "copies#",
            "faster control#",
            "finer sizing#",
            "sharing GPUs#",
            "together#",
        )
        for one in found.attributions:
            each = (one.faster_control, one.finer_sizing, one.sharing, one.together)
            parts.add_row(str(one.copies), *(_spread(spread, 1, 100) for spread in each))
        out.print(parts)


def _spread(found: Spread | None, digits: int, scale: float = 1.0) -> str:
    if found is None:
        return ""
    mean = f"{found.mean * scale:.{digits}f}"
    if found.low is None or found.high is None or found.high == found.low:
        return mean
    return f"{mean} ±{(found.high - found.mean) * scale:.{digits}f}"
