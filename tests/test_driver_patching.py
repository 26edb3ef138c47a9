# SPDX-License-Identifier: Apache-2.0
"""Each hook is put where it belongs exactly once, in the old shapes of nvidia-uvm and the new ones, or nothing is."""

import shutil
from pathlib import Path
from typing import get_args

import pytest

import driver_sources
from driver_sources import CONTENT, Shape
from mpsafe.driver import patching
from mpsafe.driver.hooks import HOOKS, LINES_MAX, count
from mpsafe.driver.patching import HookRefused, patch_tree
from mpsafe.driver.source import patch_files
from mpsafe.driver.trouble import DriverCannotRun
from requires import requires
from tools.driver.sources import Missing, packaged, tree

SHAPES = get_args(Shape)

# What each hook is anchored at, in both shapes, and what leaves it without.
ANCHORS = {
    "declared": '#include "uvm_forward_decl.h"',
    "load": "return 0;",
    "unload": "uvm_tools_exit();",
    "create": "list_add_tail(&va_space->list_node, &g_uvm_global.va_spaces.list);",
    "destroy": "uvm_kvfree(va_space);",
    "hold_destroy": "uvm_mutex_lock(&g_uvm_global.va_spaces.lock);",
    "hold_shutdown": "uvm_va_space_down_write(va_space);",
    "remove": "uvm_gpu_va_space_detach_all_user_channels(gone, later);",
    "refuse": "status = uvm_hmm_va_block_reclaim(va_space, mm, start, end);",
    "replayable": "UVM_ASSERT(gpu_va_space);",
    "orphan": "NV_ERR_PAGE_TABLE_NOT_AVAIL",
    "non_replayable": "status == NV_OK && !fault->is_fatal",
    "fatal": "if (fault->is_fatal)\n        tell_of(fault);",
}


def _texts(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@requires("spatch")
@pytest.mark.parametrize("shape", SHAPES)
def test_every_hook_once(tmp_path: Path, shape: Shape) -> None:
    source = driver_sources.write(tmp_path / "source", shape)
    before = _texts(source)
    done = patch_tree(source, tmp_path / "out")
    assert [(hook.name, hook.count) for hook in done.hooks] == [(hook.name, hook.places) for hook in HOOKS]
    assert done.lines == sum(hook.lines for hook in done.hooks) <= LINES_MAX
    assert (done.version, done.tree) == ("999.12.03", str(tmp_path / "out"))
    assert _texts(source) == before
    module = tmp_path / "out" / "kernel-open" / "nvidia-uvm"
    assert all((module / path.name).read_bytes() == path.read_bytes() for path in patch_files().sources)
    probed = (module / "mpsafe_probed.h").read_text()
    assert f"MPSAFE_HAS_GPU_UUID {int(shape == 'new')}" in probed
    assert f"MPSAFE_HAS_EXTERNAL_RANGE {int(shape == 'new')}" in probed
    assert f"MPSAFE_HAS_CONF_COMPUTING_OF_GPU {int(shape == 'old')}" in probed


@requires("spatch")
def test_in_place_and_from_the_folder_above(tmp_path: Path) -> None:
    source = driver_sources.write(tmp_path / "source", "new")
    done = patch_tree(source / "kernel-open")
    text = (source / "kernel-open/nvidia-uvm/uvm_gpu_replayable_faults.c").read_text()
    assert "    UVM_ASSERT(gpu_va_space);\n    if (uvm_mpsafe_replayable_fault(gpu_va_space, fault) == NV_OK)\n" in text
    assert done.tree == str(source / "kernel-open")
    assert [path.name for path in (source / "kernel-open").iterdir() if path.name.startswith(".")] == []


@requires("spatch")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ANCHORS)
def test_a_hook_without_its_place(tmp_path: Path, shape: Shape, name: str) -> None:
    anchor = ANCHORS[name]
    instead = "elsewhere();" if anchor.endswith(";") else "elsewhere" if name != "declared" else ""
    source = driver_sources.write(tmp_path / "source", shape, without=anchor, instead=instead)
    before = _texts(source)
    with pytest.raises(HookRefused, match=f"hook {name}: .*expected .*the source is untouched") as caught:
        patch_tree(source)
    assert caught.value.hook == name
    assert _texts(source) == before


@requires("spatch")
@pytest.mark.parametrize(
    "name", [name for name in ANCHORS if name not in ("load", "orphan", "non_replayable", "fatal")]
)
def test_a_place_that_is_there_twice(tmp_path: Path, name: str) -> None:
    anchor = ANCHORS[name]
    source = driver_sources.write(tmp_path / "source", "new", without=anchor, instead=f"{anchor}\n    {anchor}")
    before = _texts(source)
    try:
        counts = {hook.name: hook.count for hook in patch_tree(source).hooks}
    except HookRefused as refused:
        assert refused.hook == name
        assert _texts(source) == before
    else:  # of two that follow each other one is enough where the first ends the search
        assert counts[name] == next(hook.places for hook in HOOKS if hook.name == name)


@requires("spatch")
def test_both_places_of_a_hook_in_one_function_are_not_two(tmp_path: Path) -> None:
    source = driver_sources.write(tmp_path / "source", "new")
    before = {hook.file: (source / "kernel-open/nvidia-uvm" / hook.file).read_text() for hook in HOOKS}
    patch_tree(source, tmp_path / "out")
    after = {name: (tmp_path / "out/kernel-open/nvidia-uvm" / name).read_text() for name in before}
    lines = "    if (uvm_mpsafe_refuses_range(va_space))\n        return NV_ERR_INVALID_STATE;\n"
    first, second, third = after["uvm_va_range.c"].split(lines)
    after["uvm_va_range.c"] = first + lines + lines + second + third
    counted, _ = count(before, after)
    assert [hook.name for hook in counted if hook.count != hook.expected] == ["refuse"]


def test_what_is_no_hook_or_takes_something_away(tmp_path: Path) -> None:
    module = driver_sources.write(tmp_path, "new") / "kernel-open/nvidia-uvm"
    before = {hook.file: (module / hook.file).read_text() for hook in HOOKS}
    after = {**before, "uvm.c": before["uvm.c"].replace("    uvm_chardev_exit();\n", "")}
    assert count(before, after)[1] == ("uvm.c: 1 of NVIDIA's lines from line 17 on were changed or removed",)
    after = {
        **before,
        "uvm.c": before["uvm.c"].replace("    uvm_tools_exit();\n", "    uvm_tools_exit();\n    more();\n"),
    }
    assert count(before, after)[1] == ("uvm.c:17: 'more();' in uvm_exit is of no hook",)
    after = {**before, "uvm.c": before["uvm.c"].replace("    uvm_tools_exit();\n", "    uvm_mpsafe_init();\n")}
    counted, other = count(before, after)
    assert len(other) == 1
    assert [hook.count for hook in counted if hook.name == "load"] == [0]


@requires("spatch")
def test_already_patched(tmp_path: Path) -> None:
    source = driver_sources.write(tmp_path / "source", "old")
    patch_tree(source)
    before = _texts(source)
    with pytest.raises(DriverCannotRun, match="is patched already: begin with the stock source"):
        patch_tree(source)
    assert _texts(source) == before


@requires("spatch")
def test_a_file_that_a_hook_needs_is_missing(tmp_path: Path) -> None:
    source = driver_sources.write(tmp_path / "source", "new")
    (source / "kernel-open/nvidia-uvm/uvm_va_range.c").unlink()
    with pytest.raises(HookRefused, match=r"hook refuse: there is no uvm_va_range\.c"):
        patch_tree(source)


def test_no_source(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DriverCannotRun, match="expected a folder that holds kernel-open/nvidia-uvm or nvidia-uvm"):
            patch_tree(place)


def test_the_version(tmp_path: Path) -> None:
    source = driver_sources.write(tmp_path / "source", "new", version="")
    with pytest.raises(DriverCannotRun, match=r"neither Kbuild, version.mk nor dkms.conf tell the driver's version"):
        patch_tree(source)
    (source / "kernel-open/dkms.conf").write_text('PACKAGE_NAME="nvidia"\nPACKAGE_VERSION="777.1"\n')
    assert patching.read_version(source / "kernel-open") == "777.1"
    (source / "version.mk").write_text("NVIDIA_VERSION = 888.2.01\n")
    assert patching.read_version(source / "kernel-open") == "888.2.01"


@requires("spatch")
def test_where_it_cannot_write(tmp_path: Path) -> None:
    source = driver_sources.write(tmp_path / "source", "new")
    with pytest.raises(DriverCannotRun, match=r"/proc cannot be written to: .*patch a copy with --out"):
        patch_tree(source, Path("/proc/mpsafe-driver"))
    (tmp_path / "out").mkdir()
    with pytest.raises(DriverCannotRun, match=r"is there already: take it away, or choose another --out"):
        patch_tree(source, tmp_path / "out")


def test_without_coccinelle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(_name: str, **_: str) -> None:
        return None

    source = driver_sources.write(tmp_path / "source", "new")
    before = _texts(source)
    monkeypatch.setattr(shutil, "which", nowhere)
    with pytest.raises(DriverCannotRun, match="spatch is not there: install the package coccinelle"):
        patch_tree(source)
    assert _texts(source) == before


def test_all_of_our_sources_are_built() -> None:
    files = patch_files()
    kbuild = next(path for path in files.sources if path.name == "mpsafe.Kbuild").read_text()
    listed = {line.rpartition("/")[2] for line in kbuild.splitlines() if line.startswith("NVIDIA_UVM_SOURCES")}
    assert listed == {path.name for path in files.sources if path.suffix == ".c"}


def test_each_hook_is_a_rule() -> None:
    rules = patch_files().cocci.read_text()
    assert [hook.name for hook in HOOKS if f"@{hook.name} " not in rules] == ["built"]
    assert {hook.file for hook in HOOKS} <= set(CONTENT)


@requires("spatch")
def test_the_sources_that_debian_has(tmp_path: Path) -> None:
    try:
        versions = packaged()
    except Missing as missing:
        pytest.skip(str(missing))
    for version in versions:
        with tree(version) as top:
            done = patch_tree(top, tmp_path / version)
        assert done.version == version
        assert [hook.count for hook in done.hooks] == [hook.places for hook in HOOKS]
