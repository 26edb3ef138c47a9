# SPDX-License-Identifier: Apache-2.0
"""This test will draw takeovers: whole ones, ones that stopped on the way, and ones with hostile names."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from mpsafe.model import Event, Identity, Takeover
from mpsafe.timeline import moments, picture

FAULT_NS = 1_800_000_000_000_000_000
SVG = "{http://www.w3.org/2000/svg}"

TAKEOVER = Takeover(
    "chat",
    Identity(10, 1),
    Identity(20, 2),
    epoch=3,
    signal_ns=FAULT_NS + 1_000_000,
    decided_ns=FAULT_NS + 1_250_000,
    promoted_ns=FAULT_NS + 2_000_000,
    received_ns=FAULT_NS + 2_500_000,
    serving_ns=FAULT_NS + 8_000_000,
    proven_ns=FAULT_NS + 400_000_000,
    granted_ns=FAULT_NS + 400_500_000,
)


EVENT = Event(seq=1, id=1, time_ns=FAULT_NS, kind="fault", phase="closed", summary="")


def event(*takeovers: Takeover) -> Event:
    return replace(EVENT, takeovers=list(takeovers))


def drawn(takeovers: Event, title: str = "a takeover") -> list[ElementTree.Element]:
    """All elements of the picture, which is XML and fetches nothing."""
    text = picture(title, takeovers)
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    return list(ElementTree.fromstring(text).iter())


def words(elements: list[ElementTree.Element]) -> list[str]:
    return [element.text or "" for element in elements if element.tag == f"{SVG}text"]


def test_moments_are_in_the_order_in_which_they_were() -> None:
    found = moments(event(TAKEOVER), TAKEOVER)
    assert [(moment.name, moment.after_ms) for moment in found] == [
        ("signal_ns", 1.0),
        ("decided_ns", 1.25),
        ("promoted_ns", 2.0),
        ("received_ns", 2.5),
        ("serving_ns", 8.0),
        ("proven_ns", 400.0),
        ("granted_ns", 400.5),
    ]


def test_what_was_not_reached_is_left_out() -> None:
    stopped = Takeover("chat", None, None, signal_ns=FAULT_NS + 1, decided_ns=FAULT_NS + 2)
    assert [moment.name for moment in moments(event(stopped), stopped)] == ["signal_ns", "decided_ns"]
    said = words(drawn(event(stopped)))
    assert "chat: process ? is lost, nobody takes over in epoch 0" in said


def bars(elements: list[ElementTree.Element]) -> list[tuple[str, float, float]]:
    """Look, top and length of each."""
    found = [element for element in elements if element.tag == f"{SVG}rect" and "class" in element.attrib]
    return [(bar.attrib["class"], float(bar.attrib["y"]), float(bar.attrib["width"])) for bar in found]


def test_each_moment_is_a_bar_as_long_as_its_time() -> None:
    elements = drawn(event(TAKEOVER))
    looks, _, lengths = zip(*bars(elements), strict=True)
    assert lengths[4] / lengths[0] == pytest.approx(8.0, rel=0.01)
    assert lengths[4] / lengths[2] == pytest.approx(4.0, rel=0.01)
    assert looks == ("b", "b", "b", "b", "s", "c", "c")
    assert "8.00 ms" in words(elements)


def test_what_comes_long_after_the_answer_is_cut_and_does_not_squeeze_the_rest() -> None:
    lengths = [length for _, _, length in bars(drawn(event(TAKEOVER)))]
    assert lengths[5] == lengths[6] == pytest.approx(1.25 * lengths[4], rel=0.01)


def test_every_takeover_of_the_event_is_drawn_below_the_one_before() -> None:
    elements = drawn(event(TAKEOVER, replace(TAKEOVER, tenant="embed")))
    height = float(elements[0].attrib["height"])
    tops = [top for _, top, _ in bars(elements)]
    assert len(tops) == 14
    assert tops == sorted({*tops})
    assert tops[-1] < height


def test_a_time_before_the_fault_is_no_bar_of_negative_length() -> None:
    early = replace(TAKEOVER, signal_ns=FAULT_NS - 5_000_000)
    assert min(length for _, _, length in bars(drawn(event(early)))) > 0


def test_names_are_text_and_nothing_else() -> None:
    name = '</text><script>alert("&")</script>'
    elements = drawn(event(replace(TAKEOVER, tenant=name)), title=name)
    assert not [element for element in elements if element.tag.endswith("script")]
    assert name in words(elements)


def test_no_takeover_is_a_picture_with_a_title() -> None:
    assert words(drawn(event())) == ["a takeover"]
