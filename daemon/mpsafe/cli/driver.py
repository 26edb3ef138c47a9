# SPDX-License-Identifier: Apache-2.0
"""mpsafe driver: the patched nvidia-uvm, from the stock driver's source to the loaded module and back."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from mpsafe.cli.options import console, json_option, print_json, say, table, words
from mpsafe.cli.terminal import printable
from mpsafe.driver import dkms, stock
from mpsafe.driver.loaded import Loaded, State, look, next_step
from mpsafe.driver.patching import patch_tree
from mpsafe.driver.tree import NAME, package_version, prepared
from mpsafe.driver.trouble import DriverCannotRun

__all__ = ["driver"]

MARGIN = 14

_folder = click.Path(path_type=Path)
_source_option = click.option(
    "--source", type=_folder, metavar="PATH", help="the stock driver's source: a folder or a .tar.xz; else /usr/src"
)
_unknown_option = click.option("--try-unknown", is_flag=True, help="also a branch that the patch was not tried on")


@click.group()
def driver() -> None:
    """The patched nvidia-uvm: build, install, look, remove.

    A semantic patch puts hooks into the source of nvidia-uvm that the distribution's or NVIDIA's package left on this
    machine; DKMS builds it beside the stock module, whose file is never touched.
    """


@driver.command()
@json_option
def status(as_json: bool) -> None:
    """Show which nvidia-uvm runs, which is next, and what to do.

    Works without root and without any NVIDIA driver. The kill switch is a line in a file of your own in
    /etc/modprobe.d: options nvidia-uvm mpsafe_enable=0
    """
    state = look()
    if as_json:
        print_json("mpsafe.driver/1", **asdict(state), next_step=next_step(state))
        return
    _print_state(console(), state)


@driver.command()
@_source_option
@click.option("--out", type=_folder, metavar="DIR", help="where the tree for DKMS is put; /usr/src")
@_unknown_option
def build(source: Path | None, out: Path | None, try_unknown: bool) -> None:
    """Prepare the patched source for DKMS, and install nothing."""
    chosen = _chosen(source, try_unknown)
    if out is None:
        _root()
    folder = out or Path("/") / dkms.TREES
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{NAME}-{package_version(chosen)}"
    with _prepared(chosen, folder) as tree:
        dkms.put(tree, target)
    click.echo(f"{target}: nvidia-uvm {chosen.version}, patched; next: mpsafe driver install")


@driver.command()
@_source_option
@click.option(
    "--kernel", metavar="VERSION", default=os.uname().release, help="for another kernel than the one that runs"
)
@click.option("--reload", is_flag=True, help="then load the module again, if nobody uses it")
@click.option("--yes", is_flag=True, help="do not ask")
@_unknown_option
def install(source: Path | None, kernel: str, reload: bool, yes: bool, try_unknown: bool) -> None:
    """Build it with DKMS, and have modprobe take it. Root only.

    The module that runs stays until nvidia-uvm is loaded again. The kill switch: options nvidia-uvm mpsafe_enable=0
    """
    _root()
    chosen = _chosen(source, try_unknown)
    if not yes:
        click.confirm(f"Build {NAME} {package_version(chosen)} for {kernel}, and load it from then on?", abort=True)
    folder = Path("/") / dkms.TREES
    folder.mkdir(parents=True, exist_ok=True)
    with _prepared(chosen, folder) as tree:
        dkms.install(tree, chosen, click.echo, kernel=kernel)
    if reload:
        dkms.reload(click.echo)
    click.echo(f"next: {next_step(look())}")


@driver.command()
@click.option("--reload", is_flag=True, help="then load the stock module, if nobody uses it")
@click.option("--yes", is_flag=True, help="do not ask")
def remove(reload: bool, yes: bool) -> None:
    """Take it all away: the stock module is as it was. Root only."""
    _root()
    if not yes:
        click.confirm(f"Remove {NAME} from DKMS, /usr/src and /etc/modprobe.d?", abort=True)
    if not dkms.remove(click.echo):
        click.echo("nothing of ours was there")
    if reload:
        dkms.reload(click.echo)
    state = look()
    if state.loaded is not None and state.loaded.ours:
        click.echo("ours still runs, until boot or, with nothing on the devices: mpsafe driver remove --reload")


@driver.command()
@click.option("--source", type=_folder, metavar="DIR", required=True, help="holds kernel-open/nvidia-uvm or nvidia-uvm")
@click.option("--out", type=_folder, metavar="DIR", help="patch a copy, put there; else the source itself")
@json_option
def patch(source: Path, out: Path | None, as_json: bool) -> None:
    """Patch a source tree, and count each hook."""
    done = patch_tree(source, out)
    if as_json:
        print_json("mpsafe.patch/1", **asdict(done))
        return
    shown = table(
        f"nvidia-uvm {done.version}, in {printable(done.tree)}", "hook", "file", "function", "count#", "lines#"
    )
    for hook in done.hooks:
        count = f"{hook.count} of {hook.expected}"
        shown.add_row(hook.name, hook.file, hook.function.replace(", ", "\n"), count, str(hook.lines))
    shows = console()
    shows.print(shown)
    shows.print(f"{done.lines} lines inserted in NVIDIA's files")


def _root() -> None:
    if os.geteuid() != 0:
        raise DriverCannotRun("this changes the system: run it as root")


def _chosen(source: Path | None, try_unknown: bool) -> stock.Stock:
    found = stock.choose(stock.found(), look().nvidia) if source is None else stock.inside(source)
    return stock.known(found, try_unknown=try_unknown)


@contextmanager
def _prepared(chosen: stock.Stock, folder: Path) -> Generator[Path]:
    """Built after the stock module where that is in DKMS too."""
    depends = bool(chosen.package) and (Path("/var/lib/dkms") / chosen.package / chosen.version).is_dir()
    with prepared(chosen, folder, lambda tree: patch_tree(tree, None), depends=depends) as tree:
        yield tree


def _print_state(out: Console, state: State) -> None:
    runs, disk, signed = state.loaded, state.on_disk, state.signing
    lines = {
        "nvidia": f"version {state.nvidia}" if state.nvidia else "no NVIDIA driver is loaded",
        "nvidia-uvm": "not loaded" if runs is None else _runs(runs),
        "hooks": ", ".join(runs.hooks) if runs is not None and runs.ours else "none",
        "/dev/mpsafe": "there" if state.device else "not there",
        "next load": f"ours, by {state.rule}" if state.rule and disk else "the stock module's",
        "on disk": f"{disk.path}, version {disk.version}" if disk else f"nothing of ours for {state.kernel}",
        "DKMS": ", ".join(f"{one.version} {one.state} {one.kernel}".rstrip() for one in state.dkms)
        or "knows nothing of it",
        "kill switch": f"set, in {state.killed_by}" if state.killed_by else "not set",
        "Secure Boot": {None: "no UEFI", False: "off", True: "on"}[signed.secure_boot],
        "signed by": (disk.signer if disk else "") or "nobody",
        "next step": next_step(state),
    }
    if signed.certificate:
        enrolled = {None: "enrolled or not: mokutil cannot tell", False: "not enrolled", True: "enrolled"}
        lines["Secure Boot"] += f"; key {signed.certificate}, {enrolled[signed.enrolled]}"
    for title, text in lines.items():
        margin = Text(title, "bold")
        margin.pad_right(MARGIN - margin.cell_len)
        say(out, margin, words(text))


def _runs(runs: Loaded) -> str:
    if not runs.ours:
        return f"stock, {runs.version}"
    inject = ", faults can be injected" if runs.inject else ""
    return f"mpsafe's, {runs.version}, {'enabled' if runs.enabled else 'switched off'}{inject}"
