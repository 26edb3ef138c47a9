# SPDX-License-Identifier: Apache-2.0
"""This test will check what holds for Xid lines of any parts, cut anywhere, and for text of any kind."""

import dataclasses
import string
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpsafe import xid
from mpsafe.xid import Xid

DATA = Path(__file__).parent / "data" / "xid"
LINES = [
    row.split("\t", maxsplit=3)[3]
    for stem in ("samples", "more")
    for row in (DATA / f"{stem}.tsv").read_text(encoding="utf-8").splitlines()[1:]
]
MMU = (
    "NVRM: Xid (PCI:0000:01:00): 31, pid=80798, name=llama-server, Ch 00000008, intr 00000000. MMU Fault: ENGINE "
    "GRAPHICS GPC1 GPCCLIENT_T1_3 faulted @ 0x7e9f_4f200000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ"
)


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


@pytest.mark.parametrize("line", LINES)
def test_a_cut_line_tells_less_but_nothing_else(line: str) -> None:
    whole = dataclasses.asdict(parsed(line))
    for length in range(len(line)):
        found = xid.parse(line[:length])
        if found is None or found.xid != whole["xid"]:
            continue
        cut = dataclasses.asdict(found)
        for name in ("pci", "gpu_instance", "compute_instance", "fault_class", "address"):
            assert cut[name] in (whole[name], None), (name, line[:length])
        for name in ("pid", "channel", "fault_type", "access", "caused_by"):
            assert cut[name] is None or str(whole[name]).startswith(str(cut[name])), (name, line[:length])
        if found.xid == xid.RECOVERY_ACTION_CHANGED:
            assert found.action in (whole["action"], None)
        if whole["name"] is None:
            assert found.name is None


CHANNELS = st.sampled_from(
    ["Ch {:08x}", "channel 0x{:08x}", "Channel ID {:08x}", "Channel {:08x}", "Graphics Exception: ChID {:04x}"]
)
NAMES = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x1b"), min_size=1, max_size=15)
    | st.lists(st.sampled_from([", ", ",", "Ch 1", "GPU ", "NVRM: Xid", " (", "pid=", "name=", "x", "'", "7"])).map(
        "".join
    )
).filter(lambda name: len(name.encode()) <= 15 and not "<unknown>".startswith(name.strip("'\"")))


@st.composite
def lines(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    """A line of the driver with any of its parts, and what it says."""
    said: dict[str, object] = {}
    prefix = draw(st.sampled_from(["", "[    1.5] ", "<3>", "May 15 08:57:36 red kernel: ", "3,12,34,-;"]))
    domain, bus, device = draw(st.tuples(st.integers(0, 0x1FFFF), st.integers(0, 255), st.integers(0, 31)))
    place = said["pci"] = f"{domain:04x}:{bus:02x}:{device:02x}"
    if draw(st.booleans()):
        place = "PCI:" + place.upper()
    place += draw(st.sampled_from(["", ".0"]))
    for word, name in (("GPU-I", "gpu_instance"), ("GPU-CI", "compute_instance")):
        if draw(st.booleans()):
            said[name] = draw(st.integers(0, 0xFFFF))
            place += f" {word}:{said[name]:02}"
    said["xid"] = draw(st.integers(1, 999).filter(lambda number: number != xid.RECOVERY_ACTION_CHANGED))
    parts: list[str] = []
    if draw(st.booleans()):
        said["pid"] = draw(st.integers(0, 2**22))
        parts.append(f"pid={said['pid']}")
    if draw(st.booleans()):
        said["name"] = draw(NAMES)
        parts.append(f"name={said['name']}")
    # The driver ends a name with a separator, whatever follows.
    text = ""
    if draw(st.booleans()):
        number, form = draw(st.integers(0x10, 0xFFFF)), draw(CHANNELS)
        text = form.format(number)
        said["channel"] = text.split()[-1]
    elif "name" in said:
        text = "GPU has fallen off the bus."
    if draw(st.booleans()):
        high, low = draw(st.tuples(st.integers(0, 2**24), st.integers(0, 2**32 - 1)))
        text += f"{', intr 00000000. ' if text else ''}MMU Fault: ENGINE CE2 faulted @ 0x{high:x}_{low:08x}. "
        said |= {"address": hex(high << 32 | low), "fault_type": "FAULT_PTE", "access": "ACCESS_TYPE_VIRT_WRITE"}
        text += f"Fault is of type {said['fault_type']} {said['access']}"
    if draw(st.booleans()):
        said["caused_by"] = draw(st.integers(1, 999))
        text += f" caused by previous Xid {said['caused_by']}"
    end = draw(st.sampled_from(["", "\n", "\r\n", "  "]))
    return f"{prefix}NVRM: Xid ({place}): {said['xid']}, {', '.join([*parts, text])}{end}", said


@given(lines())
def test_any_combination_of_parts_is_read_back(made: tuple[str, dict[str, object]]) -> None:
    line, said = made
    assert says(line) == said


FRAGMENTS = st.sampled_from(
    (
        "NVRM: Xid| (PCI:0000:01:00| GPU-I:|): |31|, |pid=|name=|'<unknown>'|Ch |faulted @ 0x|_|Fault is of type "
        "|FAULT_|ACCESS_TYPE|154, | to (| caused by previous Xid |\x1b[|\0|)"
    ).split("|")
)


@given(
    st.sampled_from(["", "NVRM: Xid (PCI:0000:01:00): 31, ", "NVRM: Xid (PCI:0000:01:00): 154, pid=7, name="]),
    st.lists(FRAGMENTS | st.text(max_size=20) | st.text(string.hexdigits, max_size=20), max_size=20).map("".join),
)
@example("NVRM: Xid (PCI:0000:01:00): 31, name=", "\ud800, \udcff, Ch 1")
def test_no_text_is_too_odd(head: str, rest: str) -> None:
    found = xid.parse(head + rest)
    assert found is not None or not head
    strict = xid.parse_message(head + rest)
    assert strict is None or (found is not None and strict.xid == found.xid)


@pytest.mark.parametrize(
    "line",
    [
        "NVRM: Xid (" * 300_000,
        "NVRM: Xid (PCI:0000:01:00): " * 100_000,
        "NVRM: " + "Xid" + " " * 3_000_000,
        "NVRM: Xid (" + "0:" * 1_500_000,
        "\x1b[" + "1;" * 1_500_000 + "Xid",
        "\x1b[" * 1_500_000 + "Xid",
        MMU + ", name=" * 500_000,
        "NVRM: Xid (PCI:0000:01:00): 31, pid=7, name=" + ", " * 1_500_000,
        "NVRM: Xid (PCI:0000:01:00): 31, pid=" + "7" * 3_000_000,
        "NVRM: Xid (PCI:0000:01:00): 154, " + "(" * 3_000_000,
        "NVRM: Xid (PCI:0000:01:00): 31, " + "Ch 0x" * 600_000,
    ],
    ids=lambda line: line[:40],
)
def test_megabytes_end(line: str) -> None:
    """A pattern that backtracks would not come back from these."""
    found = xid.parse(line)
    assert found is None or found.xid in (31, 154)


def test_megabytes_before_an_xid() -> None:
    assert parsed("NVRM: Xid (" * 100_000 + MMU) == parsed(MMU)
