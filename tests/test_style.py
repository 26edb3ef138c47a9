# SPDX-License-Identifier: Apache-2.0
"""This test will check what the reader sees: format, types, imports, spelling, size, licence lines."""

import re
import subprocess
from pathlib import Path

import pytest

from requires import requires, tool

ROOT = Path(__file__).parent.parent
LINE_BUDGET = 400
SOURCES = (".c", ".cocci", ".h", ".py", ".service", ".socket", ".toml")
NOT_OURS = ("LICENSE", "LICENSES/", "tests/data/", "tools/qualify/results/")
SPDX = re.compile(r"SPDX-License-Identifier: (Apache-2\.0|MIT OR \(?GPL-2\.0-only|GPL-2\.0-only)")


def repository_files() -> list[Path]:
    """What git would commit: neither builds nor caches."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return sorted(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


def is_ours(path: Path) -> bool:
    """Neither a licence, nor recorded from elsewhere."""
    return not str(path.relative_to(ROOT)).startswith(NOT_OURS)


def is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return re.match(rb"#!.*sh\b", file.readline(80)) is not None


def check(*command: str | Path) -> None:
    name, *arguments = command
    run = subprocess.run([tool(str(name)), *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@requires("ruff")
def test_format() -> None:
    check("ruff", "format", "--check", "--diff", ".")


@requires("ruff")
def test_lint() -> None:
    check("ruff", "check", ".")


@requires("mypy")
def test_mypy_strict() -> None:
    check("mypy")


@requires("pyright")
def test_pyright_strict() -> None:
    check("pyright", "--warnings")


@requires("lint-imports")
def test_imports_point_one_way() -> None:
    check("lint-imports")


@requires("vulture")
def test_no_dead_code() -> None:
    check("vulture")


@requires("codespell")
def test_spelling() -> None:
    check("codespell", *[path for path in repository_files() if is_ours(path)])


@requires("shellcheck")
def test_shell() -> None:
    check("shellcheck", *[path for path in repository_files() if is_script(path)])


@requires("mandoc")
def test_man_pages() -> None:
    check("mandoc", "-T", "lint", "-W", "warning", *(ROOT / "systemd" / "man").iterdir())


def test_no_file_is_over_the_budget() -> None:
    sizes = {
        path: len(path.read_bytes().splitlines()) for path in repository_files() if path.suffix in (".c", ".h", ".py")
    }
    assert {str(path.relative_to(ROOT)): size for path, size in sizes.items() if size > LINE_BUDGET} == {}


def test_each_source_names_its_licence() -> None:
    sources = [path for path in repository_files() if is_ours(path) and (path.suffix in SOURCES or is_script(path))]
    assert [str(path.relative_to(ROOT)) for path in sources if not SPDX.search(path.read_text()[:400])] == []


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(r"(?<!\w)/(home|root)/\w", id="a home directory"),
        pytest.param(r"/work/(main|shared)", id="a build machine's path"),
        pytest.param(r"https?://(pypi|files\.pythonhosted|registry\.npmjs|deb\.debian)\.", id="a registry's host"),
        pytest.param(r"\b(TODO|FIXME|XXX)\b", id="a note to self"),
    ],
)
def test_text_does_not_hold(pattern: str) -> None:
    found: list[str] = []
    for path in repository_files():
        if path == Path(__file__) or not is_ours(path):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if re.search(pattern, line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []
