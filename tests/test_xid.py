# SPDX-License-Identifier: Apache-2.0
"""This test will check that Xid lines are read in every form that is known, and in forms that are not."""

import dataclasses
import json
from pathlib import Path

import pytest

from mpsafe import catalogue, xid
from mpsafe.xid import Xid

DATA = Path(__file__).parent / "data" / "xid"
MMU = (
    "NVRM: Xid (PCI:0000:01:00): 31, pid=80798, name=llama-server, Ch 00000008, intr 00000000. MMU Fault: ENGINE "
    "GRAPHICS GPC1 GPCCLIENT_T1_3 faulted @ 0x7e9f_4f200000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ"
)


def published(stem: str) -> list[str]:
    rows = (DATA / f"{stem}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [row.split("\t", maxsplit=3)[3] for row in rows]


def parsed(line: str) -> Xid:
    found = xid.parse(line)
    assert found is not None
    return found


def says(line: str) -> dict[str, object]:
    """What the line itself gives, without what the catalogue adds."""
    fields = dataclasses.asdict(parsed(line))
    return {
        name: value for name, value in fields.items() if value is not None and name not in ("fault_class", "action")
    }


@pytest.mark.parametrize("stem", ["samples", "more"])
def test_published_lines(stem: str) -> None:
    expected = [json.loads(line) for line in (DATA / f"{stem}.jsonl").read_text().splitlines()]
    found: list[dict[str, object]] = []
    for number, line in enumerate(published(stem), start=1):
        fields = dataclasses.asdict(parsed(line))
        found.append({"line": number, "class": fields.pop("fault_class")} | fields)
    assert found == expected


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "[  365.969681] ",
        "[  365.969681][ T1946] ",
        "[  365.969681] [ T1946] ",
        "[  365.969681][    C3] ",
        "[Fri Aug 30 11:43:09 2024] ",
        "[Fri Aug 30 11:43:09 2024] [ T1946] ",
        "kern  :err   : [  365.969681] ",
        "kern  :warn  : [Sun Feb 23 16:24:18 2025] ",
        "kern  :err   : 2026-05-27T04:18:56,089671+00:00 ",
        "kernel: ",
        "Feb 01 14:25:31 archbox kernel: ",
        "Feb  1 14:25:31 gpu-7.example kernel: [  365.969681] ",
        "2026-02-01T14:25:31.123456+01:00 gpu-7 kernel: ",
        "2026-02-01T14:25:31+0100 gpu-7 kernel: [ T1946] ",
        "<3>",
        "<3>[  365.969681] ",
        "<11>1 2026-02-01T14:25:31Z gpu-7 kernel - - - ",
        "3,1234,5678,-;",
        "3,1234,5678,-,caller=T1946;",
        "4,1227,5678,c;",
        "10.0.0.7: kern: warning: [2026-04-22T21:27:51.29087688Z]: ",
        "syslog.1:20417:Feb  1 14:25:31 gpu-7 kernel: ",
        '{"PRIORITY":"4","_TRANSPORT":"kernel","MESSAGE":"',
        "Feb  1 14:25:31 gpu-7 kernel: message repeated 2 times: [",
        "\ufeff\0\0\0\0",
        "> \u2502 ",
    ],
)
def test_prefixes(prefix: str) -> None:
    assert parsed(prefix + MMU) == parsed(MMU)


@pytest.mark.parametrize("suffix", ["\n", "\r\n", "  \t ", "\0", "\x1b[0m", " \r"])
def test_line_ends(suffix: str) -> None:
    assert parsed(MMU + suffix) == parsed(MMU)
    assert says("NVRM: Xid (PCI:0000:01:00): 43, pid=7, name=a b" + suffix) == {
        "xid": 43,
        "pci": "0000:01:00",
        "pid": 7,
        "name": "a b",
    }


@pytest.mark.parametrize(
    "line",
    [
        MMU.replace("NVRM: ", "\x1b[33mNVRM: \x1b[0m\x1b[31m"),
        MMU.replace("NVRM: Xid", "NVRM: \x1b[01;31m\x1b[KXid\x1b[m\x1b[K"),
        "\x1b[0;1;39m\x1b[0;1;31m" + MMU + "\x1b[0m",
    ],
)
def test_terminal_colours(line: str) -> None:
    assert parsed(line) == parsed(MMU)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("(PCI:0000:01:00)", {"pci": "0000:01:00"}),
        ("(PCI:0009:0A:1F)", {"pci": "0009:0a:1f"}),
        ("(0000:03:00)", {"pci": "0000:03:00"}),
        ("(PCI:0000:00:1E.0)", {"pci": "0000:00:1e"}),
        ("(PCI:00000000:65:00)", {"pci": "0000:65:00"}),
        ("(00000000:65:00.0)", {"pci": "0000:65:00"}),
        ("(PCI:10000:e1:00)", {"pci": "10000:e1:00"}),
        ("(PCI:01:00)", {"pci": "0000:01:00"}),
        ("(01:00.0)", {"pci": "0000:01:00"}),
        ("(0001:00)", {"pci": "0000:01:00"}),
        ("(PCI:0000:01:00 GPU-I:05)", {"pci": "0000:01:00", "gpu_instance": 5}),
        ("(PCI:0000:01:00 GPU-I:00 GPU-CI:12)", {"pci": "0000:01:00", "gpu_instance": 0, "compute_instance": 12}),
        ("(PCI:0000:01:00 GPU-CI:02)", {"pci": "0000:01:00", "compute_instance": 2}),
        ("(GPU-I:11)", {"gpu_instance": 11}),
        ("(PCI:zz:01:00 GPU-I:1)", {"gpu_instance": 1}),
        ("(0100:00)", {}),
        ("", {}),
    ],
)
def test_place(where: str, expected: dict[str, object]) -> None:
    assert (
        says(f"NVRM: Xid {where}: 79, GPU has fallen off the bus.".replace("Xid :", "Xid:")) == {"xid": 79} | expected
    )


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        ("pid=13705, name=UnrealEditor, ", {"pid": 13705, "name": "UnrealEditor"}),
        ("pid=2708, ", {"pid": 2708}),
        ("name=python3, ", {"name": "python3"}),
        ("pid='<unknown>', name=<unknown>, ", {}),
        ("pid=<unknown>, name=<unknown>, ", {}),
        ("pid='<unknown>', name='<unknown>', ", {}),
        ('pid="<unknown>", name="<unknown>", ', {}),
        ("pid='<unknown>', name=python3, ", {"name": "python3"}),
        ("pid=7, name=<unknown>, ", {"pid": 7}),
        ("pid='7', name=x, ", {"pid": 7, "name": "x"}),
        ("pid=..., name=x, ", {"name": "x"}),
        ("pid=99999999999999999999, name=x, ", {"name": "x"}),
        ("pid=4294967295, name=x, ", {"name": "x"}),
        ("pid=7, name=, ", {"pid": 7}),
        ("pid=7, name=Web Content, ", {"pid": 7, "name": "Web Content"}),
        ("pid=7, name=tokio-rt-worker, ", {"pid": 7, "name": "tokio-rt-worker"}),
        ("pid=7, name=[kworker/0:1], ", {"pid": 7, "name": "[kworker/0:1]"}),
        ("pid=7, name=ray::_RayTrainW, ", {"pid": 7, "name": "ray::_RayTrainW"}),
        ("pid=7, name=日本語のプ, ", {"pid": 7, "name": "日本語のプ"}),
        (
            "pid=7, name=\ufffd\ufffd, b\ufffd\ufffd\ufffd\ufffd, ",
            {"pid": 7, "name": "\ufffd\ufffd, b\ufffd\ufffd\ufffd\ufffd"},
        ),
        (r"pid=7, name=\xe2\x82\xac, \xe2\x82\xac, ", {"pid": 7, "name": r"\xe2\x82\xac, \xe2\x82\xac"}),
        ("pid=7, name=a, b, ", {"pid": 7, "name": "a, b"}),
        ("pid=7, name=a, Ch 00000001, ", {"pid": 7, "name": "a, Ch 00000001"}),
        ("pid=7, name=pid=5, name=x, ", {"pid": 7, "name": "pid=5, name=x"}),
        ("pid=7, name=FAULT_PDE, ", {"pid": 7, "name": "FAULT_PDE"}),
        ("pid=7, name=longer-than-a-comm-is, ", {"pid": 7, "name": "longer-than-a-comm-is"}),
    ],
)
def test_process(process: str, expected: dict[str, object]) -> None:
    line = f"NVRM: Xid (PCI:0000:01:00): 43, {process}Ch 00000008"
    assert says(line) == {"xid": 43, "pci": "0000:01:00", "channel": "00000008"} | expected


def test_a_name_with_a_separator_before_an_unknown_text_ends_at_the_first_one() -> None:
    assert says("NVRM: Xid (PCI:0000:01:00): 200, pid=7, name=a, b, words, more")["name"] == "a"


@pytest.mark.parametrize(
    ("text", "channel"),
    [
        ("Ch 00000008", "00000008"),
        ("Ch 0000000c, engmask 00000101, intr 10000000", "0000000c"),
        ("channel 0x00000002", "0x00000002"),
        ("channel 0x9", "0x9"),
        ("Channel ID 00000052 intr 02000000", "00000052"),
        ("Channel 00000001", "00000001"),
        ("Graphics Exception: ChID 0052, Class 00000000, Offset 00001b0c, Data 1000f010", "0052"),
        ("Graphics Exception: channel 0x0000000b, Class 0000c5c0", "0x0000000b"),
        ("Class Error: ChId 0008, Class 0000cbc0, Offset 00000184", "0008"),
        ("Contained: CE User Channel (0x9). RST: No, D-RST: No", None),
        ("Marking Channel 3 in FBPA 2 along with its pair for repair.", None),
        ("Repairing Channel failed as there are no more spare channels.", None),
        ("channel faded away", None),
        ("Switch 00000008", None),
    ],
)
def test_channel(text: str, channel: str | None) -> None:
    assert parsed(f"NVRM: Xid (PCI:0000:01:00): 13, {text}").channel == channel


@pytest.mark.parametrize(
    ("text", "address", "fault_type", "access"),
    [
        (
            "faulted @ 0x0_00000000. Fault is of type FAULT_PDE ACCESS_TYPE_READ",
            "0x0",
            "FAULT_PDE",
            "ACCESS_TYPE_READ",
        ),
        (
            "faulted @ 0x7E9F_4f200000. Fault is of type FAULT_RO_VIOLATION ACCESS_TYPE_VIRT_ATOMIC",
            "0x7e9f4f200000",
            "FAULT_RO_VIOLATION",
            "ACCESS_TYPE_VIRT_ATOMIC",
        ),
        (
            "faulted @ 0x182400_0030198d. Fault is of type UNRECOGNIZED_FAULT UNRECOGNIZED_ACCESS_TYPE",
            "0x1824000030198d",
            "UNRECOGNIZED_FAULT",
            "UNRECOGNIZED_ACCESS_TYPE",
        ),
        (
            "NVLink remote translation error: faulted @ 0x1_00000000. Fault is of type FAULT_PTE ACCESS_TYPE_WRITE",
            "0x100000000",
            "FAULT_PTE",
            "ACCESS_TYPE_WRITE",
        ),
        ("faulted @ 0x7e9f4f200000. Fault is of type FAULT_PDE", "0x7e9f4f200000", "FAULT_PDE", None),
        ("Fault is of type ACCESS_TYPE_READ", None, None, "ACCESS_TYPE_READ"),
        ("GPC1, FAULT_PTE ACCESS_TYPE_WRITE", None, "FAULT_PTE", "ACCESS_TYPE_WRITE"),
        ("faulted @ 0x7e9f_4f2", None, None, None),
        ("faulted @ 0x7e9f", None, None, None),
        ("SEC_FAULT: _IFF_POS value: 0x1", None, None, None),
        ("double bit error at physAddr 0x18f31d80 partition 16", None, None, None),
    ],
)
def test_memory_fault(text: str, address: str | None, fault_type: str | None, access: str | None) -> None:
    found = parsed(f"NVRM: Xid (PCI:0000:01:00): 31, pid=7, name=x, Ch 00000008, intr 0. {text}")
    assert (found.address, found.fault_type, found.access) == (address, fault_type, access)


@pytest.mark.parametrize(
    "rest",
    [
        "pid=1818990, name=python3, Ch 00000001 caused by previous Xid 149",
        "pid=1818990, name=python3,  caused by previous Xid 149",
        "pid=1818990, name=python3 caused by previous Xid 149",
        "caused by previous Xid 149",
        "channel 0x00000002 caused by previous Xid 149]",
    ],
)
def test_cause(rest: str) -> None:
    found = parsed(f"NVRM: Xid (PCI:0000:01:00): 45, {rest}")
    assert (found.caused_by, found.name) == (149, "python3" if "python3" in rest else None)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)", "GPU Reset Required"),
        ("GPU recovery action changed from 0x4 (Drain and Reset) to 0x0 (None)", "None"),
        ("pid=7, name=(a) to (b), GPU recovery action changed from 0x0 (None) to 0x3 (Drain P2P)", "Drain P2P"),
        ("GPU recovery action: 0x2 (Node Reboot Required)", "Node Reboot Required"),
        ("GPU recovery action changed from 0x0 (None) to 0x1 (GPU Res", None),
        ("GPU recovery action changed from 0x0 (None) to 0x1", None),
        ("GPU recovery action changed from 0x0 (None)", None),
        ("GPU recovery action changed", None),
    ],
)
def test_recovery_action_is_the_new_one(text: str, action: str | None) -> None:
    assert parsed(f"NVRM: Xid (PCI:0000:01:00): 154, {text}").action == action


@pytest.mark.parametrize("number", [1, 13, 31, 43, 45, 79, 94, 162, 176])
def test_class_and_action_are_the_catalogues(number: int) -> None:
    entry = catalogue.load()[number]
    found = parsed(f"NVRM: Xid (PCI:0000:01:00): {number}, words")
    assert (found.fault_class, found.action) == (entry.fault_class, entry.immediate)


def test_a_number_that_nobody_has_described() -> None:
    found = parsed("NVRM: Xid (PCI:0000:01:00): 9999999999, pid=7, name=x, words")
    assert (found.xid, found.pid, found.fault_class, found.action) == (9999999999, 7, "other", None)


@pytest.mark.parametrize("line", ["NVRM: Xid (PCI:0000:01:00): 79", "NVRM: Xid (PCI:0000:01:00): 79,", "NVRM: Xid: 79"])
def test_a_number_alone(line: str) -> None:
    assert parsed(line).xid == 79


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Xid",
        "NVRM: Xid",
        "NVRM: Xid (PCI:0000:01:00",
        "NVRM: Xid (PCI:0000:01:00): ",
        "NVRM: Xid (PCI:0000:01:00): 12345678901, too long",
        "NVRM: Xid (PCI:0000:01:00): 31x",
        "NVRM: Xid (invalid): some error",
        "NVRM: Xid errors were found",
        "NVRM: Xid 79 was seen last week",
        "NVRM: GPU at PCI:0000:01:00: GPU-49c7a6c9-e3a8-3b48-f0ba-171520d77dd1",
        "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Non-fatal, Link 46 MC TS crumbstore MCTO",
        "NVRM: SXid (PCI:0000:c1:00.0): 28006, Non-fatal",
        " caused by previous Xid 31",
        " SUBSYSTEM=pci",
        "\u0661\u0663 NVRM: Xid (PCI:0000:01:00): \u0661\u0663, words",
    ],
)
def test_no_xid(line: str) -> None:
    assert xid.parse(line) is None


@pytest.mark.parametrize("forged", ["NVRM: Xid (PCI:", "NVRM: Xid: 79, ", "NVRM: Xid 79, ", "Xid (0:1): 79, "])
def test_a_forged_name_does_not_win(forged: str) -> None:
    found = parsed(f"NVRM: Xid (PCI:0000:01:00): 31, pid=7, name={forged}, Ch 00000008, intr 00000000.")
    assert (found.xid, found.pid, found.name, found.channel) == (31, 7, forged, "00000008")


def test_the_first_of_several_wins_and_takes_nothing_of_the_others() -> None:
    found = says(f"NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus. {MMU} caused by previous Xid 149")
    assert found == {"xid": 79, "pci": "0000:01:00"}


def test_an_unfinished_line_before_the_xid_is_passed_over() -> None:
    assert parsed("NVRM: Xid (PCI:0000:02:00 " + MMU) == parsed(MMU)


def test_tracepoint() -> None:
    line = "python3-7 [001] ..... 12.5: nvidia_dev_xid: Xid (PCI:0000:01:00.0): 43, pid=7, name=x, channel 0x00000002"
    assert says(line) == {"xid": 43, "pci": "0000:01:00", "pid": 7, "name": "x", "channel": "0x00000002"}


class TestMessage:
    """Of the kernel's own record only what it begins with is the driver's."""

    def test_driver(self) -> None:
        assert xid.parse_message(MMU) == parsed(MMU)

    @pytest.mark.parametrize(
        "message",
        [
            "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),task_memcg=/user.slice/" + MMU,
            "traps: " + MMU,
            " " + MMU,
            "NVRM: Xid: 79, [1234]: segfault at 0 ip 0000 sp 0000 error 4",
            "NVRM: Xid (a):7[1234]: segfault at 0 ip 0000 sp 0000 error 4",
            "NVRM: Xid (PCI:[1234]: segfault at 0 ip 0000 sp 0000 error 4",
            "NVRM: Xid (PCI:: page allocation failure (a): 7, mode",
            "NVRM: Xid (PCI:page allocation failure): 7, mode",
            "nvidia_dev_xid: Xid (PCI:0000:01:00.0): 43, words",
        ],
    )
    def test_somebody_else(self, message: str) -> None:
        assert xid.parse_message(message) is None
