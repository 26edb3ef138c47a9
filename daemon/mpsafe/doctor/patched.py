# SPDX-License-Identifier: Apache-2.0
"""The patched nvidia-uvm: whether what runs is what was installed, and what the daemon counts on."""

from collections.abc import Iterator

from mpsafe.doctor.finding import Finding
from mpsafe.doctor.scene import Scene
from mpsafe.driver.loaded import State, look, next_step

__all__ = ["patched"]


def patched(scene: Scene) -> Iterator[Finding]:
    """Nothing to say on a machine that has nothing of it and whose daemon does not want it."""
    state = look(scene.root)
    wanted = scene.told.host is not None and scene.told.host.driver == "uvm"
    if not (wanted or state.rule or state.dkms or state.on_disk or state.device or _ours(state)):
        return
    found = [*_running(state, wanted=wanted), *_next(state)]
    yield from found
    if not found and state.loaded is not None:
        hooks = ", ".join(state.loaded.hooks)
        yield Finding("ok", f"nvidia-uvm {state.loaded.version} is mpsafe's, with the hooks {hooks}")


def _ours(state: State) -> bool:
    return state.loaded is not None and state.loaded.ours


def _running(state: State, *, wanted: bool) -> Iterator[Finding]:
    way_out = next_step(state)
    if state.loaded is None or not state.loaded.ours:
        runs = "no nvidia-uvm" if state.loaded is None else "the stock nvidia-uvm"
        if wanted:
            yield Finding("wrong", f'{runs} runs, and mpsafed is configured with [driver] kind = "uvm"', way_out)
        elif state.loaded is not None:
            yield Finding("note", f"{runs} runs, and mpsafe's is installed: no fault is absorbed", way_out)
    elif not state.loaded.enabled:
        where = f", in {state.killed_by}" if state.killed_by else ""
        yield Finding("warning", f"nvidia-uvm is mpsafe's and its kill switch is set{where}: it does nothing", way_out)
    elif not state.device:
        yield Finding("wrong", "nvidia-uvm is mpsafe's and /dev/mpsafe is not there", "see the kernel log: dmesg")
    if state.loaded is not None and state.loaded.inject:
        text = "faults can be injected into clients: nvidia-uvm has mpsafe_inject=1, which is for tests"
        yield Finding("warning", text, "take it out of /etc/modprobe.d and load nvidia-uvm again")


def _next(state: State) -> Iterator[Finding]:
    if state.newer_on_disk:
        text = "the mpsafe module on disk is another build than the one that runs"
        yield Finding("warning", text, next_step(state), path=state.on_disk.path if state.on_disk else None)
    if state.rule and state.on_disk is None:
        text = f"no mpsafe module is built for kernel {state.kernel}: the next load is the stock module's"
        yield Finding("warning", text, "mpsafe driver install", path=state.rule)
    elif state.on_disk and state.nvidia not in (None, state.on_disk.version):
        text = f"mpsafe's module is of driver {state.on_disk.version}, {state.nvidia} runs: next is the stock one"
        yield Finding("warning", text, "mpsafe driver install", path=state.on_disk.path)
    if state.signing.secure_boot and state.on_disk and not state.on_disk.signer:
        text = "Secure Boot is on and mpsafe's module is not signed: it will not load"
        yield Finding(
            "wrong", text, "see dkms(8), mok_signing_key; then: mpsafe driver install", path=state.on_disk.path
        )
