# SPDX-License-Identifier: Apache-2.0
"""This test will do one real thing that needs a package, twice: as installed, and with the package blocked."""

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


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Generator[Mapping[str, str], None, None]:
    with SoftwareHost(tmp_path_factory.mktemp("host") / "gpu") as host:
        yield host.environment


def attempt(program: str, environment: Mapping[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    folder.mkdir()
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    "use", [*USES, *(pytest.param(use, marks=requires("torch")) for use in TORCH_USES)], ids=lambda use: use.package
)
def test_package_is_used(use: Use, environment: Mapping[str, str], tmp_path: Path) -> None:
    run = attempt(use.program, environment, tmp_path / "installed")
    assert run.returncode == 0, run.stderr
    run = attempt(BLOCKED.format(modules=set(use.modules)) + use.program, environment, tmp_path / "blocked")
    assert run.returncode != 0
    assert "is blocked" in run.stderr


def test_no_dependency_is_without_a_use() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    for wanted, uses in ((project["dependencies"], USES), (project["optional-dependencies"]["torch"], TORCH_USES)):
        assert [re.split(r"[<>=]", each)[0] for each in wanted] == [use.package for use in uses]
