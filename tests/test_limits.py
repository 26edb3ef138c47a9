# SPDX-License-Identifier: Apache-2.0
"""This test will compare limits that are declared with what programs print, and refuse those that make no sense."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsafe.errors import BadRequest
from mpsafe.model import Limits
from mpsafed.mps.limits import checked, differences, mib_of, printed_mib, with_undone

DEVICE = "GPU-74d43ed3-cdf7-e667-3644-bf5b4f46ed65"

limits = st.builds(
    Limits,
    st.none() | st.floats(0.001, 100),
    st.none() | st.sampled_from([0, 1]),
    st.dictionaries(st.integers(0, 31).map(str), st.integers(1, 1 << 24), max_size=4),
    st.dictionaries(st.just(DEVICE), st.lists(st.integers(1, 16), min_size=1, max_size=4)),
)


def printed(given: Limits) -> Limits:
    """As v2 prints them and mpsafe reads them."""
    percentage = given.active_thread_percentage
    return Limits(
        100.0 if percentage is None else float(f"{percentage:.1f}"),
        given.client_priority or 0,
        {device: read for device, mib in given.pinned_mib.items() if (read := mib_of(printed_mib(mib)))},
        {device: sizes for device, sizes in given.partitions.items() if sizes},
    )


@given(limits)
def test_what_was_set_does_not_differ_however_it_is_printed(declared: Limits) -> None:
    assert checked(declared) == declared
    assert differences(declared, printed(declared)) == []


@given(limits, limits)
def test_what_is_declared_no_more_is_undone(declared: Limits, before: Limits) -> None:
    """Whatever was declared before, what is then in force is as if it never had been."""
    assert differences(declared, printed(with_undone(declared, before))) == []
    assert printed(with_undone(declared, before)) == printed(declared)


def test_each_difference_is_a_sentence() -> None:
    declared = Limits(37.5, 1, {"0": 2048, "1": 512}, {DEVICE: [4, 2]})
    assert differences(declared, Limits(77.0, 0, {"1": 1024})) == [
        "active thread percentage: 37.5 declared, 77 in force",
        "client priority: 1 declared, 0 in force",
        "pinned memory, device 0: 2G declared, none in force",
        "pinned memory, device 1: 512M declared, 1G in force",
        f"SM partitions of {DEVICE}: [4, 2] declared, [] in force",
    ]
    assert differences(declared, Limits())[:2] == [
        "active thread percentage: 37.5 declared, unknown",
        "client priority: 1 declared, unknown",
    ]
    assert differences(Limits(), Limits(77.0, 1, {"0": 1})) == [], "what is not declared may be anything"
    assert differences(Limits(partitions={DEVICE: [4, 2]}), Limits(partitions={DEVICE: [2, 4]})) == []


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("2G", 2048),
        ("512M\n", 512),
        ("", None),
        ("2T", None),
        ("-1G", None),
        ("1.5G", None),
        ("G", None),
        ("9" * 40 + "G", None),
    ],
)
def test_a_printed_size(text: str, mib: int | None) -> None:
    assert mib_of(text) == mib


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"active_thread_percentage": 0.0}, "expected over 0 to 100, got 0"),
        ({"active_thread_percentage": 100.5}, "expected over 0 to 100, got 100.5"),
        ({"active_thread_percentage": float("nan")}, "expected over 0 to 100, got nan"),
        ({"client_priority": 2}, r"expected 0 \(normal\) or 1 \(below normal\), got 2"),
        ({"pinned_mib": {"32": 1}}, "expected device ordinals from 0 to 31, or all, got '32'"),
        ({"pinned_mib": {"0 1G\nquit": 1}}, "expected device ordinals"),
        ({"pinned_mib": {"0": 0}}, "expected 1 to 16777216 MiB, got 0"),
        ({"partitions": {"GPU-1": [1]}}, "expected the UUID of a device"),
        ({"partitions": {f"{DEVICE}\nquit": [1]}}, "expected the UUID of a device"),
        ({"partitions": {DEVICE: [0]}}, "expected at most 64 sizes from 1 to 1024 chunks"),
        ({"partitions": {DEVICE: [1] * 10_000}}, "expected at most 64 sizes"),
    ],
)
def test_what_makes_no_sense_is_refused(bad: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence) as refused:
        checked(Limits(**bad))
    assert len(str(refused.value)) < 200
