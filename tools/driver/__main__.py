# SPDX-License-Identifier: Apache-2.0
"""python -m tools.driver compile | counts: see the package."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from mpsafe.driver.hooks import HOOKS, Counted
from mpsafe.driver.patching import patch_tree, read_version
from mpsafe.errors import MpsafeError
from tools.driver.compiling import BUILD, CompileFailed, compile_module
from tools.driver.sources import Missing, packaged, tagged, tree

SKIPPED = 77


@click.command("compile")
@click.argument("names", nargs=-1)
@click.option("--whole", is_flag=True, help="all of nvidia-uvm.ko, not only what was touched")
def _compile(names: tuple[str, ...], whole: bool) -> None:
    """Patch and compile NAMES: versions that Debian has, folders or archives; all that Debian has."""
    for name in names or packaged():
        with tree(name) as top:
            patched, compiled = compile_module(top, whole=whole)
        what = "nvidia-uvm.ko" if whole else f"{len(compiled.objects)} objects without a warning"
        click.echo(f"{patched.version}: {patched.lines} lines in {len(patched.hooks)} hooks; {compiled.kernel}: {what}")


@click.command("counts")
@click.argument("places", nargs=-1)
@click.option("--tags", metavar="GLOB", default="*", help="of a git repository: only these")
def _counts(places: tuple[str, ...], tags: str) -> None:
    """Patch all of PLACES and count the hooks: folders or archives, bare git repositories; all that Debian has."""
    rows: list[dict[str, object]] = []
    click.echo(" ".join([f"{'version':12}", *(hook.name for hook in HOOKS), "lines", "compiled"]))
    for place in places or [str(stock.path) for stock in packaged().values()]:
        if (Path(place) / "objects").is_dir():
            listed = subprocess.run(
                ["git", "-C", place, "tag", "--list", tags, "--sort=v:refname"],
                capture_output=True,
                text=True,
                check=True,
            )
            for tag in listed.stdout.split():
                with tagged(Path(place), tag) as top:
                    rows.append(_row(tag, top))
        else:
            with tree(place) as top:
                rows.append(_row(read_version(top), top))
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "support.json").write_text(json.dumps(rows, indent=2) + "\n")
    refused = [str(row["version"]) for row in rows if row["refused"]]
    if refused:
        raise click.ClickException(f"{len(refused)} of {len(rows)} are refused: {', '.join(refused)}")


def _row(version: str, top: Path) -> dict[str, object]:
    compiled = [json.loads(path.read_text()) for path in sorted((BUILD / version).glob("*/compiled.json"))]
    hooks: tuple[Counted, ...] = ()
    refused = ""
    with TemporaryDirectory(prefix="mpsafe-driver-") as folder:
        try:
            hooks = patch_tree(top, Path(folder) / "out").hooks
        except MpsafeError as error:
            refused = str(error)
    counts = [f"{f'{hook.count}/{hook.expected}':>{len(hook.name)}}" for hook in hooks]
    kernels = ", ".join(f"{one['kernel']}{' whole' if one['module'] else ''}" for one in compiled)
    told = refused or " ".join([*counts, f"{sum(hook.lines for hook in hooks):5}", kernels])
    click.echo(f"{version:12} {told}")
    return {"version": version, "refused": refused, "hooks": [asdict(hook) for hook in hooks], "compiled": compiled}


if __name__ == "__main__":
    try:
        click.Group(commands=[_compile, _counts], help=__doc__)(prog_name="python -m tools.driver")
    except Missing as error:
        click.echo(str(error), err=True)
        sys.exit(SKIPPED)
    except (CompileFailed, MpsafeError) as error:
        click.echo(str(error), err=True)
        sys.exit(1)
