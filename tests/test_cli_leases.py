# SPDX-License-Identifier: Apache-2.0
"""This test will look at leases and contents from the command line."""

import fcntl
import hashlib
import os

from command import mpsafe, printed
from daemon_process import Mpsafed
from mpsafe.protocol.leases import Span
from mpsafed.store import SEALS
from requires import requires

pytestmark = requires("soft")

GIB = 1 << 30


def test_leases_are_shown(mpsafed: Mpsafed) -> None:
    socket = ("--socket", mpsafed.socket)
    assert mpsafe("leases", *socket).startswith("Nobody has a lease")
    client = mpsafed.client
    client.attach("chat").close()
    device = client.devices()[0].uuid
    client.acquire("chat", device, memory=Span(GIB, 2 * GIB, 3 * GIB), sm=Span(10, 20, 30))
    client.acquire("chat", device, sm=Span(5, 5, 5))
    head, _, first, second = [line.split() for line in mpsafe("leases", *socket).splitlines()]
    assert head == "lease device tenant pid floor/target/ceiling granted SM state age".split()
    span = ["1.0", "GiB/2.0", "GiB/3.0", "GiB", "3.0", "GiB", "30", "%", "held"]
    assert first[:-2] == ["1", device, "chat", str(os.getpid()), *span]
    assert second[:-2] == ["2", device, "chat", str(os.getpid()), "5", "%", "held"]
    told = printed("leases", *socket)
    assert (told["shape"], [lease["id"] for lease in told["leases"]]) == ("mpsafe.leases/1", [1, 2])
    assert told["leases"][0]["memory"] == {"floor": GIB, "target": 2 * GIB, "ceiling": 3 * GIB}


def test_contents_are_shown(mpsafed: Mpsafed) -> None:
    socket = ("--socket", mpsafed.socket)
    assert mpsafe("store", "ls", *socket) == "0 contents, 0 B\n"
    mpsafed.client.attach("chat").close()
    fd = os.memfd_create("content", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 3 << 20)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    name = hashlib.sha256(bytes(3 << 20)).hexdigest()
    with mpsafed.client.publish("chat", name, fd):
        os.close(fd)
        head, _, line, total = [line.split() for line in mpsafe("store", "ls", *socket).splitlines()]
        assert head == "sha256 size tenant uid users published unused".split()
        assert line[:-2] == [name[:16], "3.0", "MiB", "chat", str(os.geteuid()), "1"]
        assert " ".join(total) == "1 contents, 3.0 MiB"
        assert [one["hash"] for one in printed("store", "ls", *socket)["contents"]] == [name]
