# SPDX-License-Identifier: Apache-2.0
"""This test will see devices come, go and change hands, by events that the kernel is asked to send."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from mpsafed.signals import DeviceChanged, Signal
from mpsafed.sources.device_events import DeviceEvents, is_nvidia_gpu
from requires import requires

PATIENCE_S = 60
NULL, ZERO = Path("/sys/class/mem/null/uevent"), Path("/sys/class/mem/zero/uevent")

H100 = {"PCI_CLASS": "30200", "PCI_ID": "10DE:2330", "DRIVER": "nvidia"}


def _is_null(properties: Mapping[str, str]) -> bool:
    return properties.get("DEVNAME") == "/dev/null"


@requires("root")
@pytest.mark.skipif(not NULL.exists(), reason="/sys/class/mem/null is missing")
def test_events_of_the_kernel_are_told() -> None:
    """A device without a driver and without an address of PCI; the form of those is the next test's."""

    async def scenario() -> None:
        found: list[Signal] = []
        told: list[str] = []
        source = DeviceEvents(subsystem="mem", matches=_is_null)
        task = asyncio.ensure_future(source.run(found.append, told.append))
        async with asyncio.timeout(PATIENCE_S):
            while not told and not task.done():
                await asyncio.sleep(0)
            for action in ("add", "change", "remove"):
                ZERO.write_text(action)
                NULL.write_text(action)
            while len(found) < 2 and not task.done():
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        assert told == ["mem devices"]
        said = [(s.pci, s.action, s.driver) for s in found if isinstance(s, DeviceChanged)]
        assert said == [("null", "add", ""), ("null", "remove", "")]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("properties", "matches"),
    [
        (H100, True),
        (H100 | {"DRIVER": "vfio-pci"}, True),
        ({"PCI_CLASS": "30000", "PCI_ID": "10de:1eb8"}, True),
        (H100 | {"PCI_CLASS": "40300"}, False),
        (H100 | {"PCI_ID": "8086:2330"}, False),
        (H100 | {"PCI_CLASS": "display"}, False),
        ({}, False),
    ],
)
def test_what_is_a_gpu(properties: Mapping[str, str], matches: bool) -> None:
    """The audio function beside a GPU is none, and a GPU without a driver is one: unbind names none."""
    assert is_nvidia_gpu(properties) == matches
