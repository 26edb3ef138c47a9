# SPDX-License-Identifier: Apache-2.0
"""Xid lines: what NVIDIA's driver writes to the kernel log when something fails on a device.

The grammar is the driver's own (open-gpu-kernel-modules 595.45.04, krcReportXid_IMPL in
src/nvidia/src/kernel/gpu/rc/kernel_rc.c), with the older forms that public logs show:

    NVRM: Xid (PCI:dddd:bb:dd GPU-I:nn GPU-CI:nn): N, pid=P, name=S, text caused by previous Xid M

Every part but N may be missing or unreadable without a loss of the others. The driver's tracepoint
(nvidia:nvidia_dev_xid) prints the same words after its own name.

The parser takes text, and text can be forged: trust is a matter of who delivers it. `parse` looks for
an Xid anywhere in a log line and serves people and tools. `parse_message` is for the message of a
kernel record (facility 0): only the words with which a record *begins* are the driver's. Further on
stands what users have chosen, too: the kernel prints names of processes, and whole paths of cgroups.

Both take linear time: no pattern repeats what it repeats, and nothing is read more than
TEXT_MAX characters after the number. Neither raises, whatever the text.
"""

import re
from dataclasses import dataclass
from typing import Final

from mpsafe import catalogue
from mpsafe.model import FaultClass

__all__ = ["TEXT_MAX", "Xid", "parse", "parse_message"]

# Far above what the driver prints: it cuts its messages at 528 bytes (kernel-open/nvidia/os-interface.c).
TEXT_MAX: Final = 4096
# TASK_COMM_LEN without the NUL (include/linux/sched.h).
COMM_BYTES: Final = 15
# pid_t is signed; the driver prints 32 bits unsigned.
PID_MAX: Final = 2**31 - 1
RECOVERY_ACTION_CHANGED: Final = 154

_COLOUR = re.compile(r"\x1b\[[0-9;:?]*[A-Za-z]")
_HEAD = re.compile(
    r"(?:NVRM: {0,4}|nvidia_dev_xid: )Xid {0,4}\(([^()]{1,96})\) {0,4}: {0,4}([0-9]{1,10})(?![0-9A-Za-z_])"
)
_BARE_HEAD = re.compile(r"NVRM: {0,4}Xid:? {0,4}()([0-9]{1,10})(?=,|\s{0,4}$)")
_PCI = re.compile(r"(?:PCI:)?(?:([0-9A-Fa-f]{1,8}):)?([0-9A-Fa-f]{1,4}):([0-9A-Fa-f]{2})(?:\.[0-7])?")
_INSTANCE = re.compile(r"GPU-(C?)I:([0-9]{1,5})")
_PID = re.compile(r"[,\s]{0,4}pid=['\"]?([0-9]*)([^,\s]*)")
_NAME = re.compile(r"[,\s]{0,4}name=")
_NAME_END = re.compile(r",(?: |$)")
_ESCAPED_BYTE = re.compile(r"\\x[0-9A-Fa-f]{2}|\N{REPLACEMENT CHARACTER}")
_OPENING = re.compile(
    r"(?:Ch |ChI[Dd] |[Cc]hannel |Graphics |Class |MMU |FIFO |Timeout |GPU |GSP|An |Row |Bank |Page |Dynamic |DRAM "
    r"|Marking |Retiring |Repairing |Unable |Contained|Uncontained|NVLink|NVLINK|NETIR|RLW_|TLW_|SAW_|TREX|NVLPW|MSE_"
    r"|SEC_|Head |PE0|Error |Failed |Guest |vGPU |[0-9a-f]{8} )"
)
_CAUSE = re.compile(r"\s{0,4}caused by previous Xid ([0-9]{1,10})(?![0-9])")
_CHANNEL = re.compile(
    r"(?<!\w)(?:(?:Ch|ChI[Dd]|Channel ID) {1,4}((?:0x)?[0-9A-Fa-f]{1,16})"
    r"|[Cc]hannel {1,4}(0x[0-9A-Fa-f]{1,16}|(?=[A-Fa-f]{0,15}[0-9])[0-9A-Fa-f]{4,16}))(?!\w)"
)
_ADDRESS = re.compile(r"faulted @ 0x([0-9A-Fa-f]{1,16})(?:_([0-9A-Fa-f]{1,8}))?(?!\w)")
_FAULT_TYPE = re.compile(
    r"ault is of type (?!ACCESS_TYPE|UNRECOGNIZED_ACCESS)([A-Z][A-Z0-9_]*)|(?<!\w)(FAULT_[A-Z0-9_]+)(?!\w)"
)
_ACCESS = re.compile(r"(?<!\w)((?:UNRECOGNIZED_)?ACCESS_TYPE(?:_[A-Z_]+)?)(?!\w)")
_PARENTHESIS = re.compile(r"\(([^()]*)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Xid:
    """One Xid line. None: the line does not say, or not legibly.

    xid               the number
    pci               `dddd:bb:dd`, lower case, as the driver and lspci print it, whatever the line has: no
                      function, domain 0000 where it names none, more than four digits only where needed
    gpu_instance      MIG: the GPU instance
    compute_instance  MIG: the compute instance
    pid               of the process that allocated the channel, else of the driver's caller; in the host's
                      pid namespace
    name              that process's name (comm, at most 15 bytes, chosen by the process), as printed;
                      None for `<unknown>`
    channel           the channel's number as printed: `00000008`, `0x00000002`
    caused_by         the Xid that this one follows
    fault_class       from the catalogue; `other` for a number that it does not have
    address           of an MMU fault: hexadecimal with 0x, no leading zeros, no underscore
    fault_type        of an MMU fault as printed: `FAULT_PDE`
    access            of an MMU fault as printed: `ACCESS_TYPE_VIRT_READ`
    action            NVIDIA's advised immediate action (the catalogue's `immediate`), None where NVIDIA
                      advises none; of Xid 154 the last parenthesis of the line, None if that is cut off
    """

    xid: int
    pci: str | None
    gpu_instance: int | None
    compute_instance: int | None
    pid: int | None
    name: str | None
    channel: str | None
    caused_by: int | None
    fault_class: FaultClass
    address: str | None
    fault_type: str | None
    access: str | None
    action: str | None


def parse(line: str) -> Xid | None:
    """The first Xid of a log line with whatever stands before it, or None if there is none.

    Timestamps, host names, priorities and kernel caller tags are passed over, terminal colours removed.
    Words that look like another Xid inside the first one, such as a process name, are not one.
    """
    if "Xid" not in line:
        return None
    if "\x1b" in line:
        line = _COLOUR.sub("", line)
    head = _HEAD.search(line)
    bare = _BARE_HEAD.search(line, 0, head.start() if head else len(line))
    found = bare or head
    return _xid(found, line) if found else None


def parse_message(message: str) -> Xid | None:
    """The Xid that the message of one kernel record is, or None.

    It must begin as the driver prints it, with an address: the kernel begins other messages with the
    name of a process, which is too short to hold that.
    """
    if not message.startswith("NVRM: Xid (PCI:"):
        return None
    head = _HEAD.match(message)
    found = _xid(head, message) if head else None
    return found if found and found.pci else None


def _xid(head: re.Match[str], line: str) -> Xid:
    pci, gpu_instance, compute_instance = _location(head[1])
    rest = line[head.end() : head.end() + TEXT_MAX].rstrip("\0 \t\r\n")
    cause = _CAUSE.search(rest)
    pid, name, text = _process(rest[: cause.start()] if cause else rest)
    text, another, _ = text.partition("NVRM: ")
    number = int(head[2])
    entry = catalogue.load().get(number)
    advised = entry.immediate if entry else None
    channel, fault_type, access = _CHANNEL.search(text), _FAULT_TYPE.search(text), _ACCESS.search(text)
    return Xid(
        xid=number,
        pci=pci,
        gpu_instance=gpu_instance,
        compute_instance=compute_instance,
        pid=pid,
        name=name,
        channel=channel[1] or channel[2] if channel else None,
        caused_by=int(cause[1]) if cause and not another else None,
        fault_class=entry.fault_class if entry else "other",
        address=_address(text),
        fault_type=fault_type[1] or fault_type[2] if fault_type else None,
        access=access[1] if access else None,
        action=_recovery_action(text) if number == RECOVERY_ACTION_CHANGED else advised,
    )


def _location(words: str) -> tuple[str | None, int | None, int | None]:
    """PCI address, GPU instance and compute instance from what stands in the parenthesis."""
    pci: str | None = None
    instances: dict[str, int] = {}
    for word in words.split():
        if address := _PCI.fullmatch(word):
            domain, bus, device = (int(digits or "0", 16) for digits in address.groups())
            pci = f"{domain:04x}:{bus:02x}:{device:02x}" if bus <= 0xFF else None
        elif instance := _INSTANCE.fullmatch(word):
            instances[instance[1]] = int(instance[2])
    return pci, instances.get(""), instances.get("C")


def _process(rest: str) -> tuple[int | None, str | None, str]:
    """Pid, name and what stands after them."""
    pid: int | None = None
    name: str | None = None
    if said := _PID.match(rest):
        rest = rest[said.end() :]
        if said[2] in ("", "'", '"') and 0 < len(said[1]) <= 10 and int(said[1]) <= PID_MAX:
            pid = int(said[1])
    if begin := _NAME.match(rest):
        printed, rest = _split_name(rest[begin.end() :])
        # A line that was cut inside `<unknown>` names nobody either.
        name = None if "<unknown>".startswith(printed.strip("'\"")) else printed
    return pid, name, rest


def _split_name(rest: str) -> tuple[str, str]:
    """A name and the text after it.

    A name may hold the separator. It ends at the last one within the length of a name that the driver
    could go on from, else at the first one.
    """
    chosen: tuple[str, str] | None = None
    for end in _NAME_END.finditer(rest):
        name = rest[: end.start()]
        if chosen is not None and len(_ESCAPED_BYTE.sub("?", name).encode(errors="replace")) > COMM_BYTES:
            break
        if chosen is None or _OPENING.match(rest, end.end()):
            chosen = name, rest[end.end() :]
    return chosen or (rest, "")


def _address(text: str) -> str | None:
    found = _ADDRESS.search(text)
    if not found:
        return None
    high, low = found.groups()
    # The driver prints `0xHIGH_LOW` with eight digits in LOW, and more words after it: less, and the line was cut.
    whole = found.end() < len(text) if low is None else len(low) == 8
    return hex(int(high + (low or ""), 16)) if whole else None


def _recovery_action(text: str) -> str | None:
    """The new action of `... changed from 0x0 (None) to 0x1 (GPU Reset Required)`, None if it is cut off."""
    new = text.partition(" to ")[2] if " from " in text else text
    last = _PARENTHESIS.match(new, max(new.rfind("("), 0))
    return last[1] if last else None
