# SPDX-License-Identifier: Apache-2.0
"""This test will hold the software driver's records to the layout that the compiler sees, and decode what is none."""

import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsafe.errors import SourceLost
from mpsafe.model import Identity
from mpsafe.soft import layouts
from mpsafe.soft.machine import Absorbed, Fatal, Process
from mpsafe.soft.records import LAYOUT, RecordRing
from mpsafed.driver._uapi import ffi, lib
from mpsafed.driver.records import HEARTBEAT_SECONDS, decode

# In the order of LAYOUT.
FIELDS = (
    "size type mode load seq time_ns client tgid uid start_ticks va sink_base sink_size faults access fault status "
    "latency_ns place unit gpu_uuid comm veid gpc reserved"
).split()
UUID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")


def process(pid: int = 1234, comm: str = "python") -> Process:
    return Process(number=7, pid=pid, uid=1000, start_ticks=987654321, comm=comm, role="cuda", faults=2)


def absorbed(who: Process) -> bytes:
    ring = RecordRing()
    fault = Absorbed(process=who, device=0, va=0x5000_0001_2345, access="atomic", detail="pte", new=True)
    ring.absorbed("absorb", fault, UUID.bytes, 4321)
    return ring.since(1)[0]


def test_the_layout_is_the_compilers() -> None:
    assert LAYOUT.size == ffi.sizeof("struct mpsafe_record")
    codes = list(LAYOUT.format.removeprefix("<").replace("16s", "s"))
    assert len(codes) == len(FIELDS)
    offset = 0
    for name, code in zip(FIELDS, codes, strict=True):
        if name != "reserved":  # nobody reads it, so the binding does not have it
            assert ffi.offsetof("struct mpsafe_record", name) == offset, name
        offset += 16 if code == "s" else struct.calcsize(f"<{code}")


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("hello", layouts.HELLO), ("policy", layouts.POLICY), ("client", layouts.CLIENT),
        ("client_mode", layouts.CLIENT_MODE), ("stats", layouts.STATS), ("answer", layouts.ANSWER),
        ("inject", layouts.INJECT),
    ],
)  # fmt: skip
def test_the_layouts_of_requests_are_the_compilers(name: str, layout: struct.Struct) -> None:
    assert layout.size == ffi.sizeof(f"struct mpsafe_{name}")


def test_the_numbers_of_requests_are_the_compilers() -> None:
    names = "HELLO POLICY_SET POLICY_GET HEARTBEAT CLIENT_NEXT CLIENT_MODE STATS ANSWER INJECT".split()
    for name in names:
        assert getattr(layouts, f"{name}_NUMBER") == getattr(lib, f"MPSAFE_IOC_{name}"), name


def test_the_daemon_decodes_what_the_software_kernel_writes() -> None:
    record = decode(absorbed(process()))
    assert record.kind == "absorbed"
    assert record.client == Identity(1234, 987654321)
    assert (record.uid, record.name, record.mode, record.seq) == (1000, "python", "absorb", 1)
    assert (record.address, record.access, record.fault) == (0x5000_0001_2345, "atomic", "pte")
    assert (record.faults, record.status, record.latency_ns) == (2, 0, 4321)
    assert record.device == f"GPU-{UUID}"
    assert record.load > 0
    assert record.time_ns > 0


def test_each_kind_of_record() -> None:
    ring = RecordRing()
    fatal = Fatal(
        process=process(), channel=1, device=0, group=1, fault_class="mmu", detail="ro", va=4096, access="write",
        victims=(), status=lib.MPSAFE_STATUS_STATE,
    )  # fmt: skip
    ring.policy("observe")
    ring.passed("observe", fatal, UUID.bytes)
    ring.gone("off", process())
    decoded = [decode(raw) for raw in ring.since(1)]
    assert [(record.kind, record.mode, record.seq) for record in decoded] == [
        ("policy", "observe", 1),
        ("passed", "observe", 2),
        ("gone", "off", 3),
    ]
    assert decoded[1].status != 0
    assert (decoded[1].access, decoded[1].fault) == ("write", "ro")
    assert len({record.load for record in decoded}) == 1


def test_names_are_cut_and_need_not_be_text() -> None:
    assert decode(absorbed(process(comm="a" * 40))).name == "a" * 15
    raw = bytearray(absorbed(process()))
    start = ffi.offsetof("struct mpsafe_record", "comm")
    raw[start : start + 16] = b"\xff" * 16
    assert decode(bytes(raw)).name == "�" * 16


def test_a_newer_module_may_append_fields() -> None:
    raw = absorbed(process()) + b"more of it"
    assert decode(struct.pack("<I", len(raw)) + raw[4:]) == decode(raw)


def test_short_records_are_refused() -> None:
    raw = absorbed(process())
    for size in range(len(raw)):
        with pytest.raises(SourceLost, match=f"expected a record of {len(raw)} bytes, got {size}"):
            decode(raw[:size])


@pytest.mark.parametrize(("field", "value"), [("type", 0), ("type", 7), ("type", 65535), ("size", 0), ("size", 20)])
def test_records_of_another_kind_are_refused(field: str, value: int) -> None:
    raw = bytearray(absorbed(process()))
    struct.pack_into("<I" if field == "size" else "<H", raw, ffi.offsetof("struct mpsafe_record", field), value)
    with pytest.raises(SourceLost, match=rf"expected a record of ABI {lib.MPSAFE_ABI}, got type \d+, size \d+"):
        decode(bytes(raw))


@given(st.binary(max_size=2 * LAYOUT.size))
def test_garbage_is_a_record_or_a_lost_source(raw: bytes) -> None:
    try:
        record = decode(raw)
    except SourceLost as error:
        assert error.source == "driver"
    else:
        assert record.mode in ("off", "observe", "absorb", "unknown")


@given(st.binary(min_size=LAYOUT.size, max_size=LAYOUT.size))
def test_a_record_of_any_content_is_decoded(raw: bytes) -> None:
    """The head is right and nothing else."""
    head = struct.pack("<IH", LAYOUT.size, lib.MPSAFE_RECORD_ABSORBED)
    record = decode(head + raw[len(head) :])
    assert record.kind == "absorbed"
    assert record.access in ("none", "read", "write", "atomic")


def test_the_heart_beats_in_seconds() -> None:
    assert HEARTBEAT_SECONDS * 1000 == lib.MPSAFE_HEARTBEAT_MS
