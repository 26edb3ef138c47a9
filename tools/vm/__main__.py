# SPDX-License-Identifier: Apache-2.0
"""python -m tools.vm build | boot: see the package."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import click

from tools.vm import GuestLost, NotRun, booted, distribution_kernel
from tools.vm.image import root_image
from tools.vm.kernel import initramfs

CANNOT_RUN = 77
HOUR_S = 3600


@click.command("build")
def _build() -> None:
    """Makes what a boot needs, which a boot would do as well, and tells where it is."""
    kernel = distribution_kernel()
    for path in (kernel.image, initramfs(kernel), root_image()):
        click.echo(path)


@click.command("boot")
@click.option("--init", default="systemd", show_default=True, type=click.Choice(["systemd", "agent"]), help="process 1")
@click.option("--add", multiple=True, type=click.Path(exists=True, path_type=Path), help="a file, to /srv/mpsafe/NAME")
@click.argument("script", nargs=-1)
def _boot(init: Literal["systemd", "agent"], add: Sequence[Path], script: Sequence[str]) -> None:
    """Runs SCRIPT, a line of the shell, as root in a guest; without one, the lines of standard input, one by one."""
    with booted(init, extra={path.name: path for path in add}, limit_s=HOUR_S) as guest:
        for line in [" ".join(script)] if script else _lines():
            click.echo(guest.run("sh", "-c", f"({line}\n) 2>&1", status=None, limit_s=HOUR_S), nl=False)


def _lines() -> Iterator[str]:
    """What a person types, or what is piped in."""
    prompt = "guest# " if sys.stdin.isatty() else ""
    with contextlib.suppress(EOFError):
        while True:
            yield input(prompt)


if __name__ == "__main__":
    try:
        click.Group("vm", commands=[_build, _boot], help="A virtual machine to try the kernel part in.")()
    except NotRun as error:
        click.echo(f"vm: {error}", err=True)
        raise SystemExit(CANNOT_RUN) from None
    except (AssertionError, GuestLost) as error:
        raise SystemExit(f"vm: {error}") from None
