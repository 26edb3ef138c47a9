# SPDX-License-Identifier: Apache-2.0
"""This test will have the real DKMS build our module beside a stock one, and take it away without a trace."""

import json
from pathlib import Path

import pytest

from end2end.driver_root import NEEDS, DriverRoot, machine, packages
from requires import requires

pytestmark = requires(*NEEDS)

BEGIN = """
import hashlib, json, shutil, subprocess, sys
from pathlib import Path
import driver_standin
from mpsafe.driver import dkms, loaded, stock
from mpsafe.driver.tree import prepared
from mpsafe.driver.trouble import DriverStepFailed

kernel, told = sys.argv[1], []
run = lambda *command: subprocess.run(command, check=True, capture_output=True, text=True).stdout

def files():
    roots = [Path("/lib/modules", kernel), Path("/usr/src"), Path("/etc/modprobe.d"), Path("/var/lib/dkms")]
    found = (path for root in roots for path in root.rglob("*") if "linux-headers" not in str(path))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found if path.is_file()}

def install(one, hook=driver_standin.hook, depends=True):
    with prepared(one, Path("/usr/src"), hook, depends=depends) as tree:
        dkms.install(tree, one, told.append, kernel=kernel)

def stock_module(version=driver_standin.VERSION):
    driver_standin.tree(Path("/usr/src", f"{driver_standin.PACKAGE}-{version}"), version)
    run("dkms", "install", "-m", driver_standin.PACKAGE, "-v", version, "-k", kernel)

run("depmod", kernel)
stock_module()
before = files()
(one,) = stock.found()
"""

TWICE = """
install(one)
first = files()
install(one)
again = files() == first
state = loaded.look(kernel=kernel)
lines = run("modinfo", "-k", kernel, "mpsafe-nvidia-uvm").splitlines()
said = dict(line.split(":", 1) for line in lines if ":" in line)
field = lambda name: said[name].strip()
depends = run("modprobe", "-S", kernel, "--show-depends", "-i", "mpsafe-nvidia-uvm").split()
touched = [path for path in before if first.get(path) != before[path] and "modules." not in path]
removed, twice = dkms.remove(told.append), dkms.remove(told.append)
after = files()
print(json.dumps({
    "again": again, "state": state.dkms[0].state, "version": state.on_disk.version, "signer": state.on_disk.signer,
    "rule": state.rule, "name": field("name"), "depends": field("depends"),
    "switch": "mpsafe_enable:bool" in "".join(lines),
    "loads": [word.rpartition("/")[2] for word in depends if word.endswith(".ko")], "touched": touched,
    "left": sorted(path for path in {**before, **after} if before.get(path) != after.get(path)),
    "removed": [removed, twice],
}))
"""

BROKEN = """
def hook(tree):
    driver_standin.hook(tree)
    with (tree / "nvidia-uvm" / "uvm.c").open("a") as file:
        file.write("this is no C")

try:
    install(one, hook)
except DriverStepFailed as error:
    failed = str(error)
log = Path("/", dkms.BUILD_LOG)
print(json.dumps({"failed": failed, "log": "this is no C" in log.read_text(), "same": files() == before}))
"""

UPGRADED = """
install(one)
run("dkms", "remove", "-m", driver_standin.PACKAGE, "-v", driver_standin.VERSION, "--all")
shutil.rmtree(f"/usr/src/{driver_standin.PACKAGE}-{driver_standin.VERSION}")
stock_module("580.142")
(new,) = stock.found()
install(new)
print(json.dumps({
    "versions": [line.version for line in loaded.look(kernel=kernel).dkms],
    "trees": [path.name for path in Path("/usr/src").glob("mpsafe*")],
    "version": loaded.look(kernel=kernel).on_disk.version,
}))
"""

OTHER_VERSION = """
driver_standin.tree(Path("/usr/src/nvidia-580.142"), "580.142")
other = stock.inside(Path("/usr/src/nvidia-580.142"))
try:
    install(other, depends=False)
except DriverStepFailed as error:
    log = Path("/", dkms.BUILD_LOG).read_text()
    print(json.dumps({"log": log, "rule": Path("/", loaded.RULE).exists(), "tree": dkms.remove(told.append)}))
"""


# In the place of the installed nvidia.ko: what it exports, and nothing behind it.
REAL = """
import hashlib, json, re, shutil, subprocess, sys
from pathlib import Path
import driver_standin
from mpsafe.driver import dkms, loaded, stock
from mpsafe.driver.patching import patch_tree
from mpsafe.driver.tree import prepared

kernel, archive = sys.argv[1:]
run = lambda *command: subprocess.run(command, check=True, capture_output=True, text=True).stdout
shutil.copy(archive, "/usr/src")
(one,) = stock.found()
installed = Path("/lib/modules", kernel, "updates/dkms/nvidia-current-open.ko")
exports = re.compile(r"^EXPORT_SYMBOL(?:_GPL)?\\((\\w+)\\)", re.MULTILINE)
with stock.unpacked(one) as top:
    sources = [path.read_text(errors="replace") for path in top.glob("nvidia/*.c")]
    names = sorted({name for source in sources for name in exports.findall(source)})
tree = Path("/tmp/nvidia")
driver_standin.tree(tree, one.version)
lines = [f"void {name}(void); void {name}(void) {{}}\\nEXPORT_SYMBOL({name});" for name in names]
ends = ['MODULE_LICENSE("Dual MIT/GPL");', "MODULE_VERSION(NV_VERSION_STRING);"]
(tree / "nvidia/nv.c").write_text("\\n".join(["#include <linux/module.h>", *lines, *ends, ""]))
run("make", "-s", "-C", str(tree), "modules", f"KERNEL_UNAME={kernel}", "NV_KERNEL_MODULES=nvidia")
installed.parent.mkdir(parents=True, exist_ok=True)
shutil.copy(tree / "nvidia.ko", installed)
run("depmod", kernel)
digest = hashlib.sha256(installed.read_bytes()).hexdigest()

with prepared(one, Path("/usr/src"), patch_tree, depends=False) as made:
    dkms.install(made, one, lambda line: None, kernel=kernel)
state = loaded.look(kernel=kernel)
about = run("modinfo", "-k", kernel, "mpsafe-nvidia-uvm")
removed = dkms.remove(lambda line: None)
print(json.dumps({
    "version": state.on_disk.version, "state": state.dkms[0].state,
    "parameters": sorted(re.findall(r"mpsafe_\\w+(?=:)", about)), "removed": removed,
    "same": hashlib.sha256(installed.read_bytes()).hexdigest() == digest,
    "left": [str(path) for path in Path("/lib/modules", kernel).rglob("mpsafe*")],
}))
"""


@pytest.fixture(
    scope="module",
    params=[pytest.param(0, id="Debian 12", marks=requires("minutes")), pytest.param(-1, id="Debian 13")],
)
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DriverRoot:
    versions: list[Path] = packages("dkms")
    return machine(tmp_path_factory.mktemp("machine"), versions[int(request.param)])


def test_installed_twice_and_removed_twice(root: DriverRoot) -> None:
    told = json.loads(root.run(BEGIN + TWICE))
    assert told.pop("signer") == "DKMS module signing key"
    assert told == {
        "again": True,
        "state": "installed",
        "version": "550.163.01",
        "rule": "/etc/modprobe.d/mpsafe-nvidia-uvm.conf",
        "name": "nvidia_uvm",
        "depends": "nvidia",
        "switch": True,
        "loads": ["nvidia-current-open.ko", "mpsafe-nvidia-uvm.ko"],
        "touched": [],
        "left": [],
        "removed": [True, False],
    }


def test_a_build_that_fails_leaves_the_stock_module_and_a_log(root: DriverRoot) -> None:
    told = json.loads(root.run(BEGIN + BROKEN))
    assert told["failed"].startswith("dkms install: exit status ")
    assert told["failed"].endswith("all of it is in /var/log/mpsafe-nvidia-uvm.log")
    assert (told["log"], told["same"]) == (True, True)


def test_a_driver_that_was_upgraded_gets_a_module_of_its_own(root: DriverRoot) -> None:
    told = json.loads(root.run(BEGIN + UPGRADED))
    (version,) = told["versions"]
    assert version.startswith("580.142-mpsafe")
    assert told["trees"] == [f"mpsafe-nvidia-uvm-{version}"]
    assert told["version"] == "580.142"


def test_a_source_of_another_version_than_the_installed_driver_is_not_built(root: DriverRoot) -> None:
    told = json.loads(root.run(BEGIN + OTHER_VERSION))
    assert "nvidia-current-open.ko is of version 550.163.01, this source of 580.142" in told["log"]
    assert (told["rule"], told["tree"]) == (False, False)


def test_the_exports_of_a_module_are_those_that_the_kernel_was_built_with(root: DriverRoot, tmp_path: Path) -> None:
    program = """
import json, subprocess, sys
from pathlib import Path
from mpsafe.driver.tree import forms
folder = Path("/lib/modules", sys.argv[1])
told = {}
listed = [line.split("\\t") for line in (folder / "build/Module.symvers").read_text().splitlines()]
for name in ("nf_conntrack", "libcrc32c", "vsock"):
    (module,) = folder.rglob(f"{name}.ko*")
    done = subprocess.run(["sh", forms() / "symvers", module], check=True, capture_output=True, text=True).stdout
    ours = sorted([line.split("\\t")[i] for i in (0, 1, 3)] for line in done.splitlines())
    theirs = sorted([line[i] for i in (0, 1, 3)] for line in listed if line[2].rpartition("/")[2] == name)
    told[name] = [len(ours), ours == theirs]
print(json.dumps(told))
"""
    told = json.loads(root.run(program))
    assert all(count > 0 and same for count, same in told.values()), told


@requires("minutes")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("source", [0, -1], ids=["535", "550"])
def test_the_drivers_of_debian_are_patched_built_and_taken_away(root: DriverRoot, source: int) -> None:
    archive = next(packages("nvidia-open-kernel-source")[source].glob("usr/src/*.tar.xz"))
    told = json.loads(root.run(REAL, str(archive), timeout_s=1800))
    assert told.pop("version").startswith(("535.", "550.")[source])
    assert told == {
        "state": "installed",
        "parameters": ["mpsafe_enable", "mpsafe_features", "mpsafe_inject", "mpsafe_ring"],
        "removed": True,
        "same": True,
        "left": [],
    }
