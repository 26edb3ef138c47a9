# SPDX-License-Identifier: Apache-2.0
"""This test will keep regions in the vault of a real daemon, and read and write them from several processes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from daemon_process import Mpsafed
from requires import requires
from vault_process import OUTSIDE, VaultProcess

pytestmark = requires("soft")

Start = Callable[..., VaultProcess]


@pytest.fixture
def start(mpsafed: Mpsafed) -> Iterator[Start]:
    """Starts processes of tenants, clients of the MPS server or `outside` of it."""
    with ExitStack() as stack:

        def started(tenant: str = "chat", *, outside: bool = False) -> VaultProcess:
            environment = OUTSIDE if outside else None
            process = VaultProcess(mpsafed.host, tenant, mpsafed.socket, environment=environment)
            return stack.enter_context(process)

        yield started


def test_what_one_process_committed_another_reads_after_its_death(start: Start) -> None:
    writer = start()
    writer.do("weights = vault.create('weights', 'immutable', 5 << 20, layout=b'{}')")
    assert writer.do("weights.writable") == "True"
    writer.do("weights.write(b'as trained', offset=4 << 20)")
    digest = writer.do("weights.commit().digest")
    assert writer.do("weights.writable") == "False"
    writer.kill()
    reader = start(outside=True)
    reader.do("weights = vault.open('weights')")
    assert reader.do("weights.read(10, offset=4 << 20)") == "b'as trained'"
    assert reader.do("weights.info.digest") == digest
    assert reader.do("(weights.layout, weights.relocated, weights.info.nbytes % (2 << 20))") == "(b'{}', False, 0)"
    assert reader.do("[r.name for r in vault.regions()]") == "['weights']"


def test_a_write_to_what_is_committed_is_the_writers_own_fault(mpsafed: Mpsafed, start: Start) -> None:
    writer, reader = start(outside=True), start(outside=True)
    writer.do("weights = vault.create('weights', 'immutable', 1)")
    writer.do("weights.commit()")
    reader.do("weights = vault.open('weights')")
    reader.do("kernel('write_address').launch(cuda.U64(weights.address), cuda.U32(1))")
    assert mpsafed.fault_closed().blame.client == reader.identity
    assert reader.process.wait(60) == -9
    assert writer.do("vault.digest(weights) == weights.info.digest") == "True"


def test_what_is_not_committed_is_its_creators_alone_and_goes_with_it(start: Start) -> None:
    writer, reader = start(), start()
    writer.do("weights = vault.create('weights', 'immutable', 1)")
    assert "expected a committed region, got region 1, which is open" in reader.fails("vault.open('weights')")
    assert "BadRequest" in reader.fails("client.commit_region(1, 'sum64:0000000000000000')")
    writer.kill()
    while "UnknownRegion" not in reader.fails("vault.open('weights')"):
        pass
    assert reader.do("vault.regions()") == "[]"


def test_damage_is_noticed_before_it_is_used(start: Start) -> None:
    writer, reader = start(), start()
    writer.do("weights = vault.create('weights', 'immutable', 1)")
    writer.do("client.commit_region(weights.info.id, 'sum64:0000000000000001'); weights.write(b'late')")
    assert "ContentsChanged: region 1: expected sum64:0000000000000001" in reader.fails("vault.open('weights')")
    reader.do("damaged = vault.open('weights', verify=False)")


def test_the_newest_of_a_name_counts(start: Start) -> None:
    one = start()
    for number in (1, 2):
        one.do(f"weights = vault.create('weights', 'immutable', 1); weights.write(b'v{number}'); weights.commit()")
        one.do("weights.close()")
    one.do("third = vault.create('weights', 'immutable', 1)")
    assert one.do("vault.open('weights').read(2)") == "b'v2'"
    assert one.do("[(c.region.id, c.why) for c in client.collect()]") == "[(1, 'region 2 of the same name is newer')]"
    assert one.do("[r.id for r in vault.regions()]") == "[2, 3]"


def test_a_region_lies_at_the_same_address_everywhere_unless_that_is_taken(start: Start) -> None:
    one, other = start(), start()
    one.do("weights = vault.create('weights', 'immutable', 1); weights.commit()")
    other.do("weights = vault.open('weights'); again = vault.open('weights')")
    assert other.do("weights.address") == one.do("weights.address")
    assert other.do("(weights.relocated, again.relocated, again.address == weights.address)") == "(False, True, False)"


def test_durable_memory_wants_the_epoch_which_one_process_holds(start: Start) -> None:
    one, other, foreign = start(), start(), start("embed")
    assert "the tenant's epoch to be claimed" in one.fails("vault.create('kv', 'durable', 1)")
    assert [one.do("vault.claim()"), one.do("vault.claim()")] == ["1", "1"]
    one.do("kv = Durable.create(vault, 'kv', 1 << 20)")
    holds = f"EpochHeld: process {one.process.pid} holds epoch 1 of tenant chat"
    assert other.fails("vault.claim()") == holds
    assert other.fails("vault.create('kv', 'durable', 1)") == holds
    assert other.fails("Durable.open(vault, 'kv', write=True)") == holds
    other.do("mine = Durable.open(vault, 'kv')")
    assert foreign.do("vault.claim()") == "1", "each tenant has its own"
    assert "NotPermitted" in foreign.fails("client.open_region(1)")
    assert "NotPermitted" in foreign.fails("client.open_region(tenant='chat', name='kv')")
    assert "NotPermitted" in foreign.fails("client.claim('chat')")


def test_what_was_published_is_read_though_its_writer_died_in_the_middle(start: Start) -> None:
    writer = start()
    writer.do("vault.claim(); kv = Durable.create(vault, 'kv', 1 << 20)")
    writer.do("kv.data.write(b'one'); kv.commit(b'first')")
    writer.do("kv.data.write(b'two', offset=4096); kv.commit(b'second')")
    writer.do("kv.data.write(b'torn', offset=8192)")
    writer.kill()
    heir = start()
    assert heir.do("kv = Durable.open(vault, 'kv'); assert kv.committed().payload == b'second'") == "None"
    assert heir.do("(kv.data.read(3), kv.data.read(3, offset=4096))") == "(b'one', b'two')"
    assert heir.do("vault.claim()") == "2"
    assert "NotGranted: region 1 is not to be written" in heir.fails("Durable.open(vault, 'kv', write=True)")
    assert heir.do("[r.state for r in vault.regions()]") == "['suspect']"


def test_the_daemon_holds_everything_over_its_own_death(mpsafed: Mpsafed, start: Start) -> None:
    writer = start()
    writer.do("vault.claim(); kv = Durable.create(vault, 'kv', 1 << 20); kv.data.write(b'kept'); kv.commit(b'x')")
    writer.do("weights = vault.create('weights', 'immutable', 3 << 20); weights.write(b'w'); weights.commit()")
    before = writer.do("client.vault()")
    for _ in range(3):
        mpsafed.kill()
        mpsafed.start(ready_for="calls")
        assert writer.do("client.vault()") == before
    assert writer.do("vault.claim()") == "1"
    mpsafed.kill()
    writer.kill()
    mpsafed.start(ready_for="calls")
    heir = start()
    assert heir.do("Durable.open(vault, 'kv').data.read(4)") == "b'kept'"
    assert heir.do("vault.open('weights').read(1)") == "b'w'"
    assert heir.do("vault.claim()") == "2", "the end of the writer was seen"
    assert heir.do("client.drain()") == "2"
    assert "VaultClosed: the vault takes nothing in: it was drained" in heir.fails("vault.create('x', 'durable', 1)")


@pytest.mark.parametrize(
    ("handles", "sizes", "got"),
    [
        ("[os.memfd_create('x')]", "[2 << 20]", "CUDA_ERROR_INVALID_VALUE"),
        ("[os.open('/dev/null', os.O_RDWR)]", "[2 << 20]", "CUDA_ERROR_INVALID_VALUE"),
        ("[memory.export()]", "[4 << 20]", "memory of another size"),
        ("[bigger.export()]", "[2 << 20]", "memory of another size"),
        ("[memory.export(), os.pipe()[0]]", "[2 << 20, 2 << 20]", "CUDA_ERROR_INVALID_VALUE"),
    ],
)
def test_a_handle_that_is_not_what_it_is_said_to_be(start: Start, handles: str, sizes: str, got: str) -> None:
    one = start()
    one.do("device = driver.devices()[0]")
    one.do("memory = cuda.Memory.create(driver, device, 2 << 20); bigger = cuda.Memory.create(driver, device, 4 << 20)")
    error = one.fails(f"client.create_region('chat', 'w', 'immutable', device.uuid, {sizes}, {handles})")
    assert error.startswith("BadHandle: handle ")
    assert got in error
    other = one.fails("client.create_region('chat', 'w', 'immutable', 'GPU-other', [2 << 20], [memory.export()])")
    assert "expected 2097152 bytes of memory of device GPU-other, got device GPU-" in other
    one.do("client.create_region('chat', 'w', 'immutable', device.uuid, [2 << 20], [memory.export()])")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("'chat', 'No', 'immutable', uuid, [2 << 20], [fd]", "parameter name: expected 1 to 63 of a-z"),
        ("'chat', 'w', 'immutable', uuid, [], []", "parameter handles: expected 1 to 63"),
        ("'chat', 'w', 'immutable', uuid, [1, 1], [fd]", "parameter handles: expected 1 to 63"),
        ("'chat', 'w', 'immutable', uuid, [0], [fd]", "parameter sizes: expected bytes, over 0"),
        ("'embed', 'w', 'immutable', uuid, [1], [fd]", "NotPermitted"),
        ("'chat', 'w', 'immutable', uuid, [1], [fd], os.memfd_create('x')", "a memfd with all seals as layout"),
    ],
)
def test_a_request_that_makes_no_sense(mpsafed: Mpsafed, start: Start, words: str, error: str) -> None:
    one = start()
    one.do("uuid = driver.devices()[0].uuid; fd = os.open('/dev/null', os.O_RDONLY)")
    descriptors = mpsafed.descriptors()
    assert error in one.fails(f"client.create_region({words})")
    assert one.do("client.vault().regions") == "[]"
    while mpsafed.descriptors() > descriptors:
        assert one.do("client.vault().regions") == "[]"


def test_a_tenants_quota(mpsafed: Mpsafed, start: Start) -> None:
    mpsafed.terminate()
    mpsafed.override('[[tenant]]\nname = "chat"\nvault_bytes = 8388608\nvault_handles = 3\nreaders = ["embed"]\n')
    mpsafed.start(ready_for="calls")
    one, reader = start(), start("embed")
    one.do("a = vault.create('a', 'immutable', 1 << 20)")
    error = "QuotaExceeded: tenant chat may hold 8388608 bytes in the vault, and would hold 10485760"
    assert one.fails("vault.create('b', 'immutable', 8 << 20)") == error
    one.do("b = vault.create('b', 'immutable', 1); c = vault.create('c', 'immutable', 1)")
    assert "3 handles in the vault, and would hold 4" in one.fails("vault.create('d', 'immutable', 1)")
    one.do("vault.release(c)")
    one.do("d = vault.create('d', 'immutable', 1); a.write(b'shared'); a.commit()")
    assert reader.do("vault.open('a', tenant='chat').read(6)") == "b'shared'"
    assert "UnknownRegion" in one.fails("vault.open('a', tenant='embed')")


def test_a_cache_continues_where_its_writer_died(start: Start) -> None:
    writer = start()
    writer.do("vault.claim(); kv = KvCache.create(vault, 'kv', slots=4, slot_bytes=4096)")
    writer.do("a, b = kv.begin('a', b'prompt'), kv.begin('b'); kv.append(a, b'1234'); kv.append(b, b'5678' * 3)")
    writer.do("kv.commit()")
    writer.do("kv.append(a, b'abcd'); kv.note(a, b'two'); kv.commit()")
    writer.do("kv.append(b, b'lost')")
    writer.kill()
    heir = start(outside=True)
    heir.do(
        "old = KvCache.open(vault, 'kv'); vault.claim(); new = KvCache.create(vault, 'kv', slots=4, slot_bytes=4096)"
    )
    assert heir.do("[(e.request, e.nbytes, e.note) for e in old.verified()]") == "[('a', 8, b'two'), ('b', 12, b'')]"
    heir.do("assert old.copy_to(new) == old.entries()")
    assert heir.do("(new.span(0).read(8), new.span(1).read(12))") == "(b'1234abcd', b'567856785678')"
    heir.do("new.append(1, b'next'); new.finish(0); new.commit()")
    assert heir.do("[(e.request, e.nbytes) for e in KvCache.open(vault, 'kv').verified()]") == "[('b', 16)]"
    assert heir.do("[(r.epoch, r.state) for r in vault.regions()]") == "[(1, 'suspect'), (2, 'open')]"


def test_a_damaged_slot_is_not_taken_over(start: Start) -> None:
    one = start()
    one.do("vault.claim(); kv = KvCache.create(vault, 'kv', slots=2, slot_bytes=4096)")
    one.do("a, b = kv.begin('a'), kv.begin('b'); kv.append(a, b'1234'); kv.append(b, b'5678'); kv.commit()")
    one.do("kv.span(a).write(b'x', offset=2)")
    assert one.do("[entry.request for entry in kv.verified()]") == "['b']"


def test_a_slot_is_not_taken_again_while_the_published_generation_tells_of_it(start: Start) -> None:
    writer, reader = start(), start(outside=True)
    writer.do("vault.claim(); kv = KvCache.create(vault, 'kv', slots=2, slot_bytes=4096)")
    writer.do("a = kv.begin('a'); kv.append(a, b'1234'); kv.commit(); kv.finish(a)")
    writer.do("b = kv.begin('b'); kv.append(b, b'5678')")
    assert "LookupError: all 2 slots of the cache are taken" in writer.fails("kv.begin('c')")
    assert reader.do("[e.request for e in KvCache.open(vault, 'kv').verified()]") == "['a']"
    writer.do("kv.commit()")
    assert writer.do("kv.begin('c') == a") == "True"
    assert reader.do("[e.request for e in KvCache.open(vault, 'kv').verified()]") == "['b']"


def test_a_durable_region_that_is_read_is_not_published_in_by_mistake(start: Start) -> None:
    writer, reader = start(outside=True), start(outside=True)
    writer.do("vault.claim(); kv = Durable.create(vault, 'kv', 4096)")
    assert "region kv is durable: what changes is committed by Durable" in writer.fails("kv.region.commit()")
    writer.do("kv.commit(b'x')")
    reader.do("kv = Durable.open(vault, 'kv')")
    assert "region kv was opened for reading: open it with write=True" in reader.fails("kv.commit(b'y')")
    assert reader.do("kv.committed().payload") == "b'x'"


@pytest.mark.parametrize(
    ("table", "got"),
    [
        ("'none'", "got Expected `array`"),
        ("[('a', 0, 3, 0, b'')]", "multiple of 4"),
        ("[('a', 2, 4, 0, b'')]", "got 4 bytes in slot 2"),
        ("[('a', 0, 8192, 0, b'')]", "got 8192 bytes in slot 0"),
        ("[('a', 0, 4, 0, b''), ('b', 0, 8, 0, b'')]", "got 8 bytes in slot 0"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_and_leaves_nothing_mapped(start: Start, table: str, got: str) -> None:
    one, other = start(outside=True), start(outside=True)
    one.do("import msgspec; vault.claim(); kv = KvCache.create(vault, 'kv', slots=2, slot_bytes=4096)")
    one.do(f"kv.durable.commit(msgspec.msgpack.encode({table}))")
    assert got in other.fails("KvCache.open(vault, 'kv')")
    assert other.do("vault.open('kv').relocated") == "False"


def test_a_note_is_whole_or_refused(start: Start) -> None:
    one = start()
    one.do("vault.claim(); kv = KvCache.create(vault, 'kv', slots=2, slot_bytes=4096)")
    assert "a note has at most 4096 bytes, this one 4097" in one.fails("kv.begin('a', bytes(4097))")
    one.do("a = kv.begin('a', bytes(4096))")
    assert "ValueError" in one.fails("kv.note(a, bytes(4097))")
    one.do("kv.commit()")
    assert one.do("len(kv.entries()[0].note)") == "4096"


TORN = """
whole, bad = kv.region.read(67), []
for at in range(67):
    for slot in (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:], whole[:at] + bytes(67 - at)):
        kv.region.write(slot)
        if kv.committed().payload != b'one' * 9:
            bad.append(at)
kv.region.write(whole)
"""


def test_a_generation_that_is_torn_at_any_byte_does_not_count(start: Start) -> None:
    one = start(outside=True)
    one.do("vault.claim(); kv = Durable.create(vault, 'kv', 4096); kv.commit(b'one' * 9); kv.commit(b'two' * 9)")
    one.do(TORN)
    assert one.do("bad") == "[]"
    assert one.do("kv.committed().payload == b'two' * 9") == "True"


def test_a_late_generation_of_an_older_epoch_does_not_count(start: Start) -> None:
    one = start(outside=True)
    one.do("vault.claim(); kv = Durable.create(vault, 'kv', 4096)")
    one.do("[kv.commit(b'old') for _ in range(3)]; late = kv.region.read(4096, offset=64 << 10)")
    one.do("kv.region.write(bytes(128 << 10)); new = Durable(kv.region, 2); assert new.commit(b'new').number == 1")
    one.do("kv.region.write(late)")
    assert one.do("(kv.committed().epoch, kv.committed().payload)") == "(2, b'new')"


def test_a_region_that_the_device_has_no_room_for_leaves_nothing(start: Start) -> None:
    one = start(outside=True)
    one.do("count = lambda: len(os.listdir('/proc/self/fd'))")
    before = one.do("count()")
    assert "CUDA_ERROR_OUT_OF_MEMORY (2)" in one.fails("vault.create('big', 'immutable', 200 << 30)")
    assert one.do("count()") == before
    assert one.do("vault.regions()") == "[]"
