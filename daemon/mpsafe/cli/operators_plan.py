# SPDX-License-Identifier: Apache-2.0
"""mpsafe operators plan: what a load needs, in workers and GPUs."""

import math
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from mpsafe.cli.options import console, json_option, print_json, table
from mpsafe.errors import BadDemand
from mpsafe.operators import specs, traces
from mpsafe.operators.model import GRANULARITIES, Demand, Granularity, Plan, Slo
from mpsafe.operators.planner import most
from mpsafe.operators.planner import plan as planned
from mpsafe.operators.profiles import Profile, open_profile
from mpsafe.operators.profiles.splitwise import BUSY_POWER

__all__ = ["plan"]


@click.command()
@click.option("--model", required=True, help="a config.json of Hugging Face, or a built-in name")
@click.option("--profile", "directory", required=True, help="a folder of tables, as aiconfigurator/h200_sxm")
@click.option("--rate", type=float, help="requests a second; with --devices, to be found if it is left out")
@click.option("--slo", required=True, help="the promise: ttft_ms=1000,tbt_ms=100, the 99th percentiles")
@click.option("--devices", type=click.IntRange(1, 100_000), help="GPUs that there are")
@click.option("--min-devices", is_flag=True, help="the fewest GPUs that keep the promise (the default)")
@click.option("--granularity", type=click.Choice(GRANULARITIES), default="operator", show_default=True, help="the cut")
@click.option("--prompt-tokens", type=float, help="tokens of a prompt, in the mean")
@click.option("--output-tokens", type=float, help="tokens of an answer, in the mean")
@click.option("--trace", type=click.Path(path_type=Path), help="requests whose lengths are taken instead")
@json_option
def plan(
    model: str,
    directory: str,
    rate: float | None,
    slo: str,
    devices: int | None,
    min_devices: bool,
    granularity: Granularity,
    prompt_tokens: float | None,
    output_tokens: float | None,
    trace: Path | None,
    as_json: bool,
) -> int:
    """Plan batch, workers, parallelism and SM share of each operator, and where each worker is.

    With --devices and no --rate: the highest rate that so many GPUs carry. Exit status 1 if the promise cannot be kept;
    the plan is then the nearest, and says what it fails on.
    """
    if devices is not None and min_devices:
        raise click.UsageError("--devices and --min-devices exclude each other")
    if rate is None and devices is None:
        raise click.UsageError("--rate is missing; only with --devices it is found")
    spec, profile, promise = specs.load(model), open_profile(directory), _promise(slo)
    demand = _demand(1.0 if rate is None else rate, prompt_tokens, output_tokens, trace)
    if rate is None and devices is not None:
        found, answer = most(spec, profile, demand, promise, granularity=granularity, devices=devices)
        if found == 0:
            answer = replace(answer, binding=answer.binding or f"{devices} devices are too few for any load")
    else:
        found = demand.rate_per_s
        answer = planned(spec, profile, demand, promise, granularity=granularity, devices=devices)
    if as_json:
        _json(answer, found, profile)
    else:
        _tell(answer, found, profile)
    return 1 if answer.binding else 0


def _promise(text: str) -> Slo:
    """Raises BadDemand."""
    try:
        given = {name.strip(): float(value) for name, _, value in (part.partition("=") for part in text.split(","))}
    except ValueError as error:
        raise BadDemand("slo", f"wants ttft_ms=...,tbt_ms=..., and is {text!r}") from error
    if set(given) != {"ttft_ms", "tbt_ms"}:
        raise BadDemand("slo", f"wants ttft_ms=...,tbt_ms=..., and is {text!r}")
    return Slo(given["ttft_ms"] / 1e3, given["tbt_ms"] / 1e3)


def _demand(rate: float, prompt: float | None, output: float | None, trace: Path | None) -> Demand:
    """Lengths of a trace, with the means that are given beside it. Raises BadRequestTrace, BadDemand."""
    if trace is None:
        if prompt is None or output is None:
            raise click.UsageError("lengths are missing: --prompt-tokens and --output-tokens, or --trace")
        return Demand(rate_per_s=rate, prompt_mean=prompt, output_mean=output)
    found = traces.read(trace)
    prompts, outputs = np.asarray(found.prompts, np.float64), np.asarray(found.outputs, np.float64)
    return Demand(
        rate_per_s=rate,
        prompt_mean=float(prompts.mean()) if prompt is None else prompt,
        output_mean=float(outputs.mean()) if output is None else output,
        prompt_scv=float(prompts.var() / prompts.mean() ** 2),
        output_scv=float(outputs.var() / outputs.mean() ** 2),
        prompts=prompts,
    )


def _gap(answer: Plan) -> float | None:
    """By how many per cent the plan exceeds what no plan goes below; None where there is no bound."""
    least = math.ceil(answer.bound_gpus - 1e-6) if math.isfinite(answer.bound_gpus) else 0
    return 100 * (answer.gpus / least - 1) if least > 0 and not answer.binding else None


def _ms(seconds: float) -> float | None:
    return seconds * 1e3 if math.isfinite(seconds) else None


def _json(answer: Plan, rate: float, profile: Profile) -> None:
    latency = answer.latency
    print_json(
        "mpsafe.plan/1",
        granularity=answer.granularity,
        rate_per_s=rate,
        binding=answer.binding,
        gpus=answer.gpus,
        bound_gpus=answer.bound_gpus if math.isfinite(answer.bound_gpus) else None,
        gap_percent=_gap(answer),
        watts=answer.watts,
        watts_range=_watts_range(answer, profile),
        ttft_ms={"mean": _ms(latency.ttft_mean_s), "p99": _ms(latency.ttft_p99_s)},
        tbt_ms={"mean": _ms(latency.tbt_mean_s), "p99": _ms(latency.tbt_p99_s)},
        pools=answer.pools,
        placement=answer.placement,
        notes=_notes(answer, profile),
    )


def _watts_range(answer: Plan, profile: Profile) -> list[float]:
    """With the power that most of the measured GPUs draw at work, from low to high, in place of the peak."""
    device = profile.device
    idle = device.idle_w * answer.gpus
    working = (answer.watts - idle) / (device.peak_w - device.idle_w)
    return [idle + working * (part * device.peak_w - device.idle_w) for part in (BUSY_POWER[0], BUSY_POWER[-1])]


def _notes(answer: Plan, profile: Profile) -> list[str]:
    """What is not measured."""
    notes = list(profile.notes.said)
    if any(pool.share < 1 for pool in answer.pools):
        notes.append("shares of SMs: modelled by a roofline, no table has them")
    return [*notes, "watts: modelled, idle power and the rest by how much of the SMs or of the memory bus works"]


def _tell(answer: Plan, rate: float, profile: Profile) -> None:
    out, latency = console(), answer.latency
    if answer.binding:
        out.print(f"infeasible: {answer.binding}", markup=False)
    if not answer.pools:
        return
    gap = _gap(answer)
    bound = "" if gap is None else f", {gap:.0f} % above the bound of {answer.bound_gpus:.2f}"
    out.print(
        f"{rate:.4g} requests a second on {answer.gpus} GPUs{bound}, {answer.watts:.0f} W (modelled)", markup=False
    )
    pools = table("", "stage", "workers#", "batch#", "tokens#", "GPUs each#", "SM share#", "memory GB#")
    for pool in answer.pools:
        pools.add_row(
            pool.stage,
            str(pool.replicas),
            str(pool.batch),
            str(pool.tokens),
            str(pool.tensor_parallel),
            f"{pool.share:.0%}",
            f"{pool.memory_bytes / 1e9:.1f}",
        )
    out.print(pools)
    times = table("", "ms", "mean#", "p99#")
    times.add_row("first token", f"{latency.ttft_mean_s * 1e3:.0f}", f"{latency.ttft_p99_s * 1e3:.0f}")
    times.add_row("between tokens", f"{latency.tbt_mean_s * 1e3:.1f}", f"{latency.tbt_p99_s * 1e3:.1f}")
    out.print(times)
    places = table("GPUs", "GPU#", "workers")
    for gpu, held in sorted(_by_gpu(answer).items()):
        places.add_row(str(gpu), ", ".join(held))
    if answer.gpus <= 32:
        out.print(places)
    for note in _notes(answer, profile):
        out.print(f"note: {note}", markup=False)


def _by_gpu(answer: Plan) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    wide = {pool.stage: pool.tensor_parallel for pool in answer.pools}
    for one in answer.placement:
        shard = f".{one.shard}" if wide[one.stage] > 1 else ""
        found.setdefault(one.gpu, []).append(f"{one.stage} {one.replica}{shard}")
    return found
