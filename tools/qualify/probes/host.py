# SPDX-License-Identifier: Apache-2.0
"""What is here at all: MPS programs, a readable kernel log, an MPS that starts."""

import hashlib
import re
import subprocess
from pathlib import Path
from typing import Final

from tools.qualify.mps import CONTROL, SERVER, PrivateMps, find_program
from tools.qualify.probe import Answer, Probe
from tools.qualify.stage import Stage

__all__ = ["HOST"]

_VERSION: Final = re.compile(rb"(?<![\d.])\d{3}\.\d{2,3}(?:\.\d{2})?(?![\d.])")


def programs(stage: Stage, answer: Answer) -> None:
    """Paths, checksums, and the driver versions that the files themselves hold."""
    for name in (CONTROL, SERVER):
        found = find_program(name, stage.environment)
        answer.outcome[name] = found is not None
        if found is None:
            continue
        content = Path(found).read_bytes()
        versions = sorted({version.decode() for version in _VERSION.findall(content)})
        answer.raw[name] = {
            "path": found,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "versions": versions[:20],
        }


def kernel_log(stage: Stage, answer: Answer) -> None:
    """Whether /dev/kmsg opens for reading, and who may."""
    answer.outcome["readable"] = stage.log is not None
    answer.measured["path"] = str(stage.target.kernel_log)
    restrict = Path("/proc/sys/kernel/dmesg_restrict")
    if restrict.exists():
        answer.measured["dmesg_restrict"] = int(restrict.read_text())
    answer.expect(stage.log is not None, f"{stage.target.kernel_log} can be read")


def driver(stage: Stage, answer: Answer) -> None:
    """The driver's own words about itself, and whether it is patched by mpsafe."""
    version = Path("/proc/driver/nvidia/version")
    parameters = Path("/proc/driver/nvidia/params")
    answer.raw["version"] = version.read_text().splitlines() if version.exists() else []
    answer.raw["params"] = parameters.read_text().splitlines() if parameters.exists() else []
    answer.outcome["open_module"] = any("Open Kernel Module" in line for line in answer.raw["version"])
    answer.outcome["mpsafe_module"] = Path("/dev/mpsafe").exists()
    answer.outcome["uvm_loaded"] = Path("/sys/module/nvidia_uvm").exists()
    try:
        shown = subprocess.run(
            ["nvidia-smi", "-q"],
            env=stage.environment,
            capture_output=True,
            text=True,
            timeout=stage.bounded_s(30),
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        answer.raw["nvidia_smi"] = [repr(error)]
    else:
        answer.raw["nvidia_smi"] = shown.stdout.splitlines()[:400]


def mps_start(stage: Stage, answer: Answer) -> None:
    """A control daemon of ours, one client, its server; and the way out."""
    mps = PrivateMps(stage)
    answer.outcome["servers_before"] = len(mps.control("get_server_list").split())
    client = stage.open("client", environment=mps.environment)
    again = client.ask("open", uuid=stage.target.uuid)
    outsider = stage.start("outsider").ask("open", uuid=stage.target.uuid)
    server = mps.server()
    answer.outcome |= {
        "mps_attribute_of_client": again.data.get("mps"),
        "mps_attribute_of_outsider": outsider.data.get("mps"),
        "client_works": client.ask("work").correct,
        "server_state": mps.state(server),
        "client_is_listed": str(client.pid) in mps.control(f"get_client_list {server}").split(),
    }
    for command in ("get_server_list", f"get_client_list {server}", "get_device_client_list", "ps"):
        answer.raw[command.replace(str(server), "SERVER")] = mps.control(command).splitlines()
    answer.expect(answer.outcome["mps_attribute_of_client"] == 1, "a client is told by CU_DEVICE_ATTRIBUTE_MPS_ENABLED")
    answer.expect(answer.outcome["mps_attribute_of_outsider"] == 0, "a process outside MPS is told by the same")
    client.end()
    mps.close()
    answer.raw["logs"] = mps.logs()


def no_mps_is_silent(stage: Stage, answer: Answer) -> None:
    """The variant without MPS: a pipe directory that nobody serves gives an ordinary process and no error."""
    actor = stage.start("bypasser")
    reply = actor.ask("open", uuid=stage.target.uuid)
    answer.outcome |= {"result": reply.result, "mps_attribute": reply.data.get("mps")}
    answer.outcome["works"] = reply.result == 0 and actor.ask("work").correct
    answer.expect(bool(answer.outcome["works"]), "a process without MPS works")


HOST: Final = (
    Probe("programs", "Are the MPS programs there, and of which version?", programs),
    Probe("driver", "What does the driver say of itself?", driver),
    Probe("kernel_log", "Can the kernel log be read?", kernel_log, reproduced=("readable",)),
    Probe(
        "no_mps_is_silent",
        "Does a pipe directory without a daemon give an ordinary process without an error?",
        no_mps_is_silent,
        reproduced=("result", "mps_attribute", "works"),
    ),
    Probe(
        "mps_start",
        "Does an MPS of our own start, serve a client and quit?",
        mps_start,
        reproduced=(
            "servers_before",
            "mps_attribute_of_client",
            "mps_attribute_of_outsider",
            "client_works",
            "server_state",
            "client_is_listed",
        ),
    ),
)
