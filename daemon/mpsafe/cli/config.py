# SPDX-License-Identifier: Apache-2.0
"""mpsafe config: the daemon reads its own configuration, so the daemon is asked whether it is right."""

import subprocess
import sys
from pathlib import Path

import click

__all__ = ["config"]


@click.group()
def config() -> None:
    """Check the daemon's configuration."""


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check(file: Path | None) -> int:
    """Check FILE, or /etc/mpsafe/mpsafe.toml, with its drop-ins."""
    command: list[str | Path] = [sys.executable, "-m", "mpsafed.main", "--check-config"]
    if file is not None:
        command += ["--config", file]
    return subprocess.run(command, check=False).returncode
