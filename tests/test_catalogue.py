# SPDX-License-Identifier: Apache-2.0
"""This test will check the catalogue that is shipped, and that a wrong one is refused by table and key."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import pytest

from mpsafe import catalogue
from mpsafe.catalogue import Effect, Entry, Response
from mpsafe.errors import BadConfig
from mpsafe.model import FaultClass

# NVIDIA, Analyzing Xid Errors with the Xid Catalog (October 2025): immediate and investigatory action.
ADVICE: dict[tuple[int, ...], tuple[str | None, str | None]] = {
    (8, 39, 40, 41): ("RESTART_APP", "CONTACT_SUPPORT"),
    (13,): ("RESTART_APP", "WORKFLOW_XID_13"),
    (31,): ("RESTART_APP", "WORKFLOW_XID_31"),
    (32, 69): ("RESTART_APP", "CHECK_APP/CUDA"),
    (43,): ("IGNORE", "CONTACT_SUPPORT"),
    (45,): ("WORKFLOW_XID_45", "WORKFLOW_XID_45"),
    (46, 62, 109): ("RESET_GPU", "CONTACT_SUPPORT"),
    (48,): ("WORKFLOW_XID_48", "WORKFLOW_XID_48"),
    (63,): ("IGNORE", "IGNORE"),
    (64,): ("RESET_GPU", "CONTACT_SUPPORT"),
    (74,): ("WORKFLOW_NVLINK_ERR", "CONTACT_SUPPORT"),
    (79,): ("RESTART_BM", "CONTACT_SUPPORT"),
    (92, 121): ("IGNORE", "CONTACT_SUPPORT"),
    (94,): ("RESTART_APP", "IGNORE"),
    (95,): ("RESET_GPU", "IGNORE"),
    (110, 119, 120): ("RESET_GPU", "INVESTIGATE_SW"),
    (136,): ("RESET_GPU", "INVESTIGATE_LINK_SI"),
    (137,): ("IGNORE", "XID_137_FLOW"),
    (140, 143, 158): ("RESET_GPU", "CONTACT_SUPPORT"),
    (144, 145, 146, 147, 148, 149, 150): ("WORKFLOW_NVLINK5_ERR", "WORKFLOW_NVLINK5_ERR"),
    (154,): ("XID_154", None),
    (156,): ("RESET_GPU", "IGNORE"),
    (157,): ("IGNORE", "CONTACT_SUPPORT"),
    (159,): ("CHECK_UVM", "SYMPATHETIC_REPORT_SOLO"),
    (160, 161): ("IGNORE", "INVESTIGATE_SW"),
    (167, 168, 169, 170, 171, 172, 173, 174, 175, 176): (None, None),
}


def test_every_number_up_to_the_drivers_last_one_has_an_entry() -> None:
    # ROBUST_CHANNEL_LAST_ERROR of 595.45.04, src/common/sdk/nvidia/inc/nverror.h.
    assert list(catalogue.load()) == list(range(1, 177))
    assert all(number == entry.xid for number, entry in catalogue.load().items())


@pytest.mark.parametrize(("numbers", "advice"), ADVICE.items())
def test_nvidias_advice(numbers: tuple[int, ...], advice: tuple[str | None, str | None]) -> None:
    entries = [catalogue.load()[number] for number in numbers]
    assert [(entry.immediate, entry.follow_up) for entry in entries] == [advice] * len(numbers)


@pytest.mark.parametrize(
    ("fault_class", "numbers"),
    [
        ("mmu", {31}),
        ("sm", {13}),
        ("device", {46, 48, 62, 63, 64, 74, 79, 92, 94, 95, 109, 110, 119, 120, 121, 136, 137, 140, 143, 158}),
        ("device", set(range(144, 151))),
        ("other", {8, 14, 32, 39, 43, 45, 69, 154, 174}),
    ],
)
def test_classes(fault_class: FaultClass, numbers: set[int]) -> None:
    assert {catalogue.load()[number].fault_class for number in numbers} == {fault_class}


def test_only_one_number_each_is_a_memory_fault_and_an_sm_fault() -> None:
    by_class = {name: [e.xid for e in catalogue.load().values() if e.fault_class == name] for name in ("mmu", "sm")}
    assert by_class == {"mmu": [31], "sm": [13]}


def test_what_is_absorbed_is_exactly_the_class_mmu() -> None:
    assert [e.xid for e in catalogue.load().values() if (e.mpsafe == "absorb") != (e.fault_class == "mmu")] == []


def test_a_lost_device_is_a_fault_of_the_device() -> None:
    lost = [entry for entry in catalogue.load().values() if entry.stock == "device-lost"]
    assert {entry.fault_class for entry in lost} == {"device"} and {entry.mpsafe for entry in lost} == {"note"}


def test_an_effect_on_other_clients_is_documented_or_marked_as_inferred() -> None:
    for entry in catalogue.load().values():
        founded = any("Multi-Process Service" in source or "not seen on a GPU" in source for source in entry.sources)
        if entry.stock in ("clients-end", "device-lost", "follows"):
            assert founded, entry
        if entry.stock in ("unknown", "by-line"):
            assert not founded, entry


@pytest.mark.parametrize(
    ("words", "used"),
    [(get_args(Effect), "stock"), (get_args(Response), "mpsafe"), (get_args(FaultClass), "fault_class")],
)
def test_every_word_is_used(words: tuple[str, ...], used: str) -> None:
    assert {getattr(entry, used) for entry in catalogue.load().values()} == set(words)


def test_read_once_and_read_only() -> None:
    assert catalogue.load() is catalogue.load()
    with pytest.raises(TypeError):
        cast("dict[int, Any]", catalogue.load())[1] = None


ENTRY = """
[[entry]]
xid = [31, 32]
name = "MMU fault"
meaning = "bad address"
class = "mmu"
why = "because"
stock = "clients-end"
mpsafe = "absorb"
immediate = "RESTART_APP"
source = ["a"]
"""
GOOD = f"""
[stock]
clients-end = "all end"
[mpsafe]
absorb = "a sink"
[advice]
RESTART_APP = "start it again"
[source]
a = "document"
{ENTRY}
"""


def read(tmp_path: Path, text: str) -> Mapping[int, Entry]:
    file = tmp_path / "catalogue.toml"
    file.write_text(text, encoding="utf-8")
    return catalogue.read(file)


def test_one_table_may_hold_several_numbers(tmp_path: Path) -> None:
    entries = read(tmp_path, GOOD)
    assert list(entries) == [31, 32]
    assert entries[32] == Entry(
        xid=32,
        name="MMU fault",
        meaning="bad address",
        fault_class="mmu",
        why="because",
        stock="clients-end",
        stock_text="all end",
        mpsafe="absorb",
        mpsafe_text="a sink",
        immediate="RESTART_APP",
        immediate_text="start it again",
        follow_up=None,
        follow_up_text=None,
        sources=("document",),
    )


@pytest.mark.parametrize(
    ("old", "new", "place", "problem"),
    [
        ('class = "mmu"', 'class = "nmu"', "entry[0].class", "'nmu'"),
        ('class = "mmu"', "", "entry[0]", "`class`"),
        ('stock = "clients-end"', 'stock = "boom"', "entry[0].stock", "'boom'"),
        ('mpsafe = "absorb"', "mpsafe = 1", "entry[0].mpsafe", "`int`"),
        ('name = "MMU fault"', 'name = ""', "entry[0].name", "length"),
        ('name = "MMU fault"', "name = 31", "entry[0].name", "`int`"),
        ("xid = [31, 32]", "xid = []", "entry[0].xid", "length"),
        ("xid = [31, 32]", "xid = [0]", "entry[0].xid[0]", ">= 1"),
        ("xid = [31, 32]", "xid = [31, 31]", "entry[0].xid", "31 has an entry already"),
        ('why = "because"', 'why = "because"\nwho = "me"', "entry[0]", "`who`"),
        ('source = ["a"]', 'source = ["b"]', "entry[0].source", "explains 'b'"),
        ('source = ["a"]', "source = []", "entry[0].source", "length"),
        ('immediate = "RESTART_APP"', 'immediate = "PRAY"', "entry[0].immediate", "explains 'PRAY'"),
        ('clients-end = "all end"', 'nothing = "fine"', "entry[0].stock", "explains 'clients-end'"),
        ('clients-end = "all end"', 'boom = "x"', "key in stock", "boom"),
        ("[source]", "[sauce]", "", "`sauce`"),
        ("[source]", "[source", "", "not TOML"),
    ],
)
def test_a_wrong_catalogue_is_refused_by_table_and_key(
    tmp_path: Path, old: str, new: str, place: str, problem: str
) -> None:
    assert old in GOOD
    with pytest.raises(BadConfig) as caught:
        read(tmp_path, GOOD.replace(old, new))
    assert caught.value.file.endswith("catalogue.toml")
    assert caught.value.place == place
    assert problem in caught.value.problem


def test_a_number_in_two_tables_is_refused_at_the_second(tmp_path: Path) -> None:
    with pytest.raises(BadConfig) as caught:
        read(tmp_path, GOOD + ENTRY.replace("[31, 32]", "[33, 32]"))
    assert (caught.value.place, caught.value.problem) == ("entry[1].xid", "32 has an entry already")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(BadConfig, match="not TOML"):
        catalogue.read(file)
