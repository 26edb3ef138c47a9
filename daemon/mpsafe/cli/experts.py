# SPDX-License-Identifier: Apache-2.0
"""mpsafe experts: serving mixture-of-experts models with the experts that do not fit left in host memory."""

import dataclasses
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, track

from mpsafe.cli.options import coloured, console, json_option, print_json, socket_option, table, words
from mpsafe.errors import BadRequest, ExtraMissing
from mpsafe.experts.comparison import Comparison, compare
from mpsafe.experts.report import page, verdict
from mpsafe.experts.simulation import NAMES, Simulation, chosen
from mpsafe.experts.simulation import simulate as run
from mpsafe.experts.trace import EXPERTS_MAX, read, write

__all__ = ["experts"]

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def experts() -> None:
    """Mixture-of-experts models with experts kept in host memory."""


@experts.command()
@json_option
@click.option("--trace", "path", type=FILE, required=True, help="which experts each layer asked for, token by token")
@click.option(
    "--cache",
    "percent",
    type=click.FloatRange(0, 100, min_open=True),
    required=True,
    help="how many per cent of all experts have room on the device",
)
@click.option("--policy", "names", default="all", show_default=True, help=f"all, or some of {','.join(NAMES)}")
@click.option(
    "--prefetch",
    default=0,
    show_default=True,
    type=click.IntRange(0, EXPERTS_MAX),
    help="experts that the link brings in during one layer, before they are asked for",
)
@click.option("--train", "training", type=FILE, multiple=True, help="a trace of other requests to learn from before")
@click.option(
    "--experts", "count", type=click.IntRange(1, EXPERTS_MAX), help="of each layer, where the trace has only ids"
)
@click.option("--expert-bytes", type=click.IntRange(1), help="size of an expert, where the trace has only ids")
def simulate(
    as_json: bool,
    path: Path,
    percent: float,
    names: str,
    prefetch: int,
    training: tuple[Path, ...],
    count: int | None,
    expert_bytes: int | None,
) -> None:
    """Replay a trace of expert ids against a cache, with each policy.

    All experts that a layer asks for are needed together and never make room for one another; the cache is one for
    all layers; ties go to the least recently used.
    """
    policies = chosen(names)
    trace = read(path, experts=count)
    if expert_bytes is not None:
        trace = dataclasses.replace(trace, expert_bytes=expert_bytes)
    others = [read(one, experts=trace.experts) for one in training]
    shown = track(policies, "policies", console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    found = run(trace, percent, shown, prefetch=prefetch, training=others)
    if as_json:
        print_json("mpsafe.simulation/1", **dataclasses.asdict(found))
    else:
        _tell(found, prefetch=prefetch)


@experts.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--text", "texts", type=FILE, multiple=True, required=True, help="a request: the beginning of this text")
@click.option("--tokens", default=128, show_default=True, type=click.IntRange(2, 1 << 16), help="of each text, at most")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="where the trace goes")
def record(model: Path, texts: tuple[Path, ...], tokens: int, out: Path) -> None:
    """Record what MODEL's routers say of texts, token by token.

    MODEL is the directory of a Hugging Face model with its tokenizer. The trace has whole router probabilities, what
    the routers of the next layers make of each hidden state, and embeddings; mpsafe experts simulate reads it.
    """
    recording = serving("mpsafe.experts.recording")
    shown = track(texts, "texts", console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    trace = recording.record_texts(model, shown, tokens=tokens)
    write(out, trace)
    click.echo(f"{len(trace)} tokens, {trace.layers} layers of {trace.experts} experts: {out}")


@experts.command()
@json_option
@click.option("--trace", "traces", type=FILE, multiple=True, required=True, help="recorded requests to compare on")
@click.option("--train", "training", type=FILE, multiple=True, help="recorded requests to learn from before")
@click.option("--cache", "percents", default="12.5,25", show_default=True, help="per cent of all experts, some sizes")
@click.option("--prefetch", default=2, show_default=True, type=click.IntRange(0, EXPERTS_MAX), help="experts a layer")
@click.option("--link", default=25.0, show_default=True, type=click.FloatRange(0.001), help="GB/s, to model the stall")
@click.option(
    "--html", "out", type=click.Path(dir_okay=False, path_type=Path), help="write a page there, with pictures"
)
def bench(
    as_json: bool,
    traces: tuple[Path, ...],
    training: tuple[Path, ...],
    percents: str,
    prefetch: int,
    link: float,
    out: Path | None,
) -> None:
    """Compare all policies on recorded traces, with paired intervals."""
    sizes = _sizes(percents)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("policies", total=len(sizes) * len(NAMES))
        found = compare(
            traces,
            training,
            sizes,
            prefetch=prefetch,
            link_bytes_s=link * 1e9,
            workers=len(os.sched_getaffinity(0)),
            done=lambda: progress.advance(task),
        )
    if out is not None:
        about = f"{found[0].requests} requests, {found[0].tokens} tokens, of {', '.join(path.name for path in traces)}"
        out.write_text(page(found, about=about, link=f"a link of {link:g} GB/s"), encoding="utf-8")
    if as_json:
        print_json("mpsafe.comparison/1", comparisons=found)
        return
    for one in found:
        _compared(one)


@experts.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--listen", default="127.0.0.1:8000", show_default=True, help="unix:PATH, or a loopback address and port")
@click.option("--cache", "percent", default=25.0, show_default=True, type=click.FloatRange(0, 100, min_open=True))
@click.option("--policy", default="mpsafe", show_default=True, help="who leaves, and what comes in ahead")
@click.option("--prefetch", default=2, show_default=True, type=click.IntRange(0, EXPERTS_MAX), help="experts at once")
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda:0")
@click.option("--tenant", help="share the host's copy, the link and the memory by mpsafed, as this tenant")
@click.option("--uuid", help="the device that is shared, by UUID; with --tenant")
@socket_option
def serve(
    model: Path,
    listen: str,
    percent: float,
    policy: str,
    prefetch: int,
    device: str,
    tenant: str | None,
    uuid: str | None,
    socket: str,
) -> None:
    """Serve MODEL with most of its experts in host memory, in the shape of OpenAI's completions.

    The cache on the device has room for --cache per cent of the experts.
    """
    if (tenant is None) != (uuid is None):
        raise BadRequest("tenant", "--tenant and --uuid together", "one of them")
    module = serving("mpsafe.experts.serving")
    sharing = None if tenant is None else module.Sharing(socket, tenant, uuid)
    click.echo(f"serves {model.name} at {listen}", err=True)
    module.serve(model, listen, cache_percent=percent, policy=policy, prefetch=prefetch, device=device, sharing=sharing)


def _sizes(percents: str) -> list[float]:
    try:
        sizes = [float(one) for one in percents.split(",")]
    except ValueError:
        raise BadRequest("cache", "per cent, like 12.5,25", repr(percents)) from None
    if not all(0 < one <= 100 for one in sizes):
        raise BadRequest("cache", "more than 0 and at most 100 per cent", repr(percents))
    return sizes


def _compared(found: Comparison) -> None:
    out = console()
    title = f"{found.percent:g} % of the experts, {found.prefetch} brought in ahead a layer, {found.requests} requests"
    heads = (
        "policy",
        "hit rate#",
        "bytes/LRU#",
        "precision#",
        "stall ms#",
        "closed#",
        "us a layer#",
        "mpsafe leads by#",
    )
    shown = table(title, *heads)
    for arm in sorted(found.arms, key=lambda arm: -arm.hit_rate):
        lead = f"{arm.lead.mean:+.4f} [{arm.lead.low:+.4f}, {arm.lead.high:+.4f}]"
        shown.add_row(
            words(arm.policy, "bold green" if arm.role == "ours" else "dim" if arm.role == "bound" else ""),
            f"{arm.hit_rate:.4f}",
            f"{arm.bytes_ratio:.3f}",
            "" if arm.precision is None else f"{arm.precision:.3f}",
            f"{arm.stall_ms:.3f}",
            f"{100 * arm.closed:.0f} %",
            f"{arm.layer_us:.0f}",
            "" if arm.role == "ours" else lead,
        )
    out.print(shown)
    for line in verdict(found):
        out.print(line)


def serving(name: str) -> Any:
    """A module that needs torch and transformers. ExtraMissing where they are not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ExtraMissing("experts", error.name or name) from error


def _tell(found: Simulation, *, prefetch: int) -> None:
    out = console()
    size = f"{found.layers} layers of {found.experts} experts, room for {found.slots}"
    ahead = f", {prefetch} brought in ahead a layer" if prefetch else ""
    shown = table(
        f"{words(found.trace)}: {size}{ahead}", "policy", "hit rate#", "hits#", "misses#", "bytes#", "wasted#", ""
    )
    for one in sorted(found.policies, key=lambda one: -(one.hit_rate or 0)):
        if one.hit_rate is None:
            shown.add_row(one.policy, *5 * [""], coloured("absent"))
            continue
        cells = [f"{one.hit_rate:.4f}", str(one.hits), str(one.misses), str(one.bytes), str(one.wasted_prefetches)]
        shown.add_row(one.policy, *cells, "" if one.causal else "knows the future")
    out.print(shown)
    if any(not one.applicable for one in found.policies):
        out.print("absent: the trace has no router probabilities, embeddings, or nothing to learn from")
