# SPDX-License-Identifier: Apache-2.0
"""This test will do one real thing that needs a package, twice: as installed, and with the package blocked."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from expert_traces import OLMOE
from mpsafe.soft.host import LIBRARIES, SoftwareHost
from requires import requires

pytestmark = requires("soft")

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
"""


@dataclass(frozen=True)
class Use:
    """One use of a package: the modules that the package installs, and a program that fails without them."""

    package: str
    modules: tuple[str, ...]
    program: str


EXPLAIN = "import sys; sys.argv = ['mpsafe', 'explain', '31']; from mpsafe.cli import main; sys.exit(main())"

DAEMON = """
import os, signal, socket, sys, threading
from pathlib import Path

here = Path.cwd()
Path("mpsafe.toml").write_text(
    f'daemon = {{ socket = "{here}/socket", state_directory = "{here}/state" }}\\n'
    f'sources = {{ kernel_log = "{here}/kmsg" }}\\n'
)
notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notices.bind(str(here / "notify"))
os.environ["NOTIFY_SOCKET"] = str(here / "notify")

def end_once_ready():
    while b"READY=1" not in notices.recv(4096).split():
        pass
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=end_once_ready, daemon=True).start()
sys.argv = ["mpsafed", "--config", "mpsafe.toml"]
from mpsafed.main import main
sys.exit(main())
"""

LISTEN = """
import asyncio, contextlib
from mpsafe.errors import SourceLost
from mpsafed.sources.process_ends import ProcessEnds

async def listen():
    from mpsafed.sources import {what}
    source = (
        {what}.DeviceEvents()
        if "{what}" == "device_events"
        else {what}.ProcessEvents(ProcessEnds(print), parents=set, born=print, missed=print)
    )
    told = asyncio.Event()
    listening = asyncio.ensure_future(source.run(print, lambda detail: told.set()))
    await asyncio.wait([listening, asyncio.ensure_future(told.wait())], return_when=asyncio.FIRST_COMPLETED)
    if listening.done():
        with contextlib.suppress(SourceLost):  # the machine may not let one listen
            listening.result()

asyncio.run(listen())
"""

USES = [
    Use("asyncinotify", ("asyncinotify",), DAEMON),
    Use("asyncvarlink", ("asyncvarlink",), DAEMON),
    Use(
        "cffi",
        ("cffi", "_cffi_backend"),
        f"from mpsafe import cuda; assert cuda.load({str(LIBRARIES / 'libcuda.so.1')!r}).version() > 0",
    ),
    Use("click", ("click",), EXPLAIN),
    Use("msgspec", ("msgspec",), EXPLAIN),
    Use(
        "numpy",
        ("numpy",),
        "import sys; sys.argv = ['mpsafe', 'experts', 'simulate', '--cache', '25', '--trace', "
        f"{os.fspath(OLMOE)!r}]; from mpsafe.cli import main; sys.exit(main())",
    ),
    Use(
        "nvidia-ml-py",
        ("pynvml",),
        "from mpsafed.nvml_helper import Nvml; assert Nvml().answer('devices')['devices'][0].software",
    ),
    Use(
        "prometheus-client",
        ("prometheus_client",),
        "from mpsafed import metrics; metrics.serve('127.0.0.1:0').close()",
    ),
    Use(
        "psutil",
        ("psutil",),
        "import os; from mpsafed import processes;"
        "assert processes.name_and_uid(processes.identify(os.getpid()))[1] == os.geteuid()",
    ),
    Use("pyroute2", ("pyroute2",), LISTEN.format(what="process_events")),
    Use("pyudev", ("pyudev",), LISTEN.format(what="device_events")),
    Use("rich", ("rich",), EXPLAIN),
    Use("systemd-python", ("systemd",), DAEMON),
    Use("typing_extensions", ("typing_extensions",), EXPLAIN),
]


NO_TENSORS = """
from mpsafe.errors import BadTensorFile
from mpsafe.tensors import files

try:
    files.load(None, "weights", ["/dev/null"])
except BadTensorFile:
    pass
"""

# Of the extra `torch`.
TORCH_USES = [
    Use("safetensors", ("safetensors",), NO_TENSORS),
    Use(
        "torch",
        ("torch",),
        "from mpsafe.tensors.layout import Layout; assert Layout.of([('a', 1, 'float32', (2,))]).nbytes == 8",
    ),
]


MATRIX = """
import numpy as np
from mpsafe.arena.matrix import Matrix
from mpsafe.arena.routers import Query, make

words = [f"word{row} and {row % 3}" for row in range(12)]
score = np.tile([[0.0, 1.0], [1.0, 0.0]], (6, 1))
known = Matrix(words, words, [""] * 12, ["a", "b"], score, np.full((12, 2), 1e-4), "made")
assert make("ROUTER", known).route(Query("q", "word1")) in known.models
"""

# Of the extra `arena`.
ARENA_USES = [
    Use(
        "jinja2",
        ("jinja2",),
        "from mpsafe.arena.board.page import render; from mpsafe.arena.board.rows import Board;"
        "assert 'Routers' in render(Board('2026-07', .1, 0, 9, None, '', [], [], []))['board.html']",
    ),
    Use(
        "polars",
        ("polars",),
        "from pathlib import Path; from mpsafe.arena.matrix import from_table;"
        "Path('t.csv').write_text('query,model,score\\nq,a,1\\n'); assert from_table(Path('t.csv')).models == ['a']",
    ),
    Use(
        "pyyaml",
        ("yaml",),
        "from mpsafe.arena.live import plan; assert 'kind' in plan.written(plan.draw(seed=0, seconds=9, rate=1))",
    ),
    Use("scikit-learn", ("sklearn",), MATRIX.replace("ROUTER", "knn")),
    Use("scipy", ("scipy",), MATRIX.replace("ROUTER", "irt")),
    Use(
        "sympy",
        ("sympy",),
        "from mpsafe.arena.grading.mathematics import equal; assert equal('x + 1', '1 + x')",
    ),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Generator[Mapping[str, str], None, None]:
    with SoftwareHost(tmp_path_factory.mktemp("host") / "gpu") as host:
        yield host.environment


def attempt(program: str, environment: Mapping[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    folder.mkdir()
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    "use",
    [*USES, *(pytest.param(use, marks=requires("torch")) for use in TORCH_USES)],
    ids=lambda use: use.package,
)
def test_package_is_used(use: Use, environment: Mapping[str, str], tmp_path: Path) -> None:
    run = attempt(use.program, environment, tmp_path / "installed")
    assert run.returncode == 0, run.stderr
    run = attempt(BLOCKED.format(modules=set(use.modules)) + use.program, environment, tmp_path / "blocked")
    assert run.returncode != 0
    assert "is blocked" in run.stderr


ONE_PROCESS = """
import json, sys

uses = json.loads(sys.stdin.read())
for modules, program in uses:
    exec(program, {})
for modules, program in uses:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mpsafe", *modules)]:
        del sys.modules[name]
    exec(BLOCKED.format(modules=set(modules)), {})
    try:
        exec(program, {})
    except ImportError as error:
        assert "is blocked" in str(error), error
    else:
        raise AssertionError(f"{modules} are not used")
    del sys.meta_path[0]
"""


def test_packages_of_the_arena_are_used(environment: Mapping[str, str], tmp_path: Path) -> None:
    """All in one process, since they take seconds to import."""
    program = f"BLOCKED = {BLOCKED!r}\n{ONE_PROCESS}"
    told = json.dumps([[use.modules, use.program] for use in ARENA_USES])
    command = [sys.executable, "-c", program]
    run = subprocess.run(
        command, env=environment, cwd=tmp_path, input=told, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_no_dependency_is_without_a_use() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for wanted, uses in (
        (project["dependencies"], USES),
        (extras["arena"], ARENA_USES),
        (extras["torch"], TORCH_USES),
    ):
        assert [re.split(r"[<>=]", each)[0] for each in wanted] == [use.package for use in uses]
