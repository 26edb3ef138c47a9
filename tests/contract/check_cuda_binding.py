# SPDX-License-Identifier: Apache-2.0
"""What the binding adds to the driver API, on any libcuda.so.1.

    python check_cuda_binding.py [LIBRARY]      prints one line a check: name, a tab, "ok" or what was wrong

That closing is silent after a fault is in check_cuda_faults.py: each child there ends well.
"""

import sys
import threading
from collections.abc import Callable
from typing import Final

from contract.check_cuda import Rig, outcomes
from mpsafe import cuda
from mpsafe.errors import BadCudaCall

__all__ = ["CHECKS"]


def refusal(kind: type[Exception], call: Callable[..., object], *arguments: object) -> str:
    """The words of the error that the call raises."""
    try:
        call(*arguments)
    except kind as error:
        return str(error)
    raise AssertionError(f"{call} raised no {kind.__name__}")


def a_failed_call_names_itself(rig: Rig) -> None:
    try:
        rig.driver.call("cuMemFree_v2", rig.a.address + 4096)
    except BadCudaCall as error:
        assert error.fields() == {
            "call": "cuMemFree_v2",
            "result": 1,
            "name": "CUDA_ERROR_INVALID_VALUE",
            "text": "invalid argument",
        }
    else:
        raise AssertionError("no error")
    assert rig.driver.error_name(123456) == "CUDA_ERROR"


def devices_are_found_by_uuid(rig: Rig) -> None:
    unknown = "GPU-00000000-0000-0000-0000-000000000000"
    words = refusal(LookupError, rig.driver.device, unknown)
    assert unknown in words and rig.device.uuid in words


def spans_have_an_end(rig: Rig) -> None:
    span = cuda.Span(rig.context, rig.a.address, 16)
    span.write(b"0123456789abcdef")
    assert span.read() == b"0123456789abcdef"
    assert span.read(offset=10) == b"abcdef"
    for call, arguments in (
        (span.read, (17,)),
        (span.read, (-1,)),
        (span.write, (b"x" * 17,)),
        (span.copy_from, (rig.b,)),
    ):
        assert "not inside" in refusal(ValueError, call, *arguments)
    assert "not inside" in refusal(ValueError, lambda: span.read(1, offset=16))
    assert "not inside" in refusal(ValueError, lambda: span.write(b"x", offset=-1))


def any_bytes_can_be_written(rig: Rig) -> None:
    for data in (b"bytes", bytearray(b"array"), memoryview(b"views"), memoryview(b"5\0words").cast("B")):
        rig.a.write(data)
        assert rig.a.read(5) == bytes(data)[:5]


def what_is_closed_is_not_used(rig: Rig) -> None:
    stream, event = cuda.Stream(rig.context), cuda.Event(rig.context)
    for owned in (stream, event):
        owned.close()
        owned.close()
    assert refusal(ValueError, stream.synchronize) == "this Stream is closed"
    assert refusal(ValueError, event.record) == "this Event is closed"
    context = cuda.Context(rig.driver, rig.device)
    context.close()
    context.close()
    assert refusal(ValueError, context.make_current) == "this Context is closed"
    rig.context.make_current()


def an_undo_that_fails_is_an_error(rig: Rig) -> None:
    buffer = cuda.Buffer(rig.context, 4096)
    rig.driver.call("cuMemFree_v2", buffer.address)
    assert "CUDA_ERROR_INVALID_VALUE" in refusal(BadCudaCall, buffer.close)
    buffer.close()


def a_reservation_unmaps_what_it_mapped(rig: Rig) -> None:
    with cuda.Memory.create(rig.driver, rig.device, rig.granule) as memory:
        with cuda.Reservation(rig.context, 2 * rig.granule) as place:
            refusal(KeyError, place.unmap)
            refusal(KeyError, place.set_access, "read")
            place.map(memory)
            place.map(memory, offset=rig.granule)
            place.unmap()
        with cuda.Reservation(rig.context, rig.granule) as place:
            place.map(memory)
            place.set_access("none")


def a_thread_makes_the_context_its_own(rig: Rig) -> None:
    seen: list[object] = []

    def work() -> None:
        try:
            rig.a.read(1)
        except BadCudaCall as error:
            seen.append(error.result)
        rig.context.make_current()
        seen.append(rig.a.read(4))

    rig.a.write(b"seen")
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [201, b"seen"], seen


def many_threads_may_work_at_once(rig: Rig) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        rig.context.make_current()
        pattern = bytes([number]) * 8192
        with cuda.Stream(rig.context) as stream, cuda.HostBuffer(rig.context, 8192) as host:
            for _ in range(25):
                with cuda.Buffer(rig.context, 8192) as buffer, cuda.Event(rig.context) as event:
                    buffer.fill(number, stream=stream)
                    buffer.read_async(host, stream=stream)
                    event.record(stream)
                    event.synchronize()
                    if bytes(host.view()) != pattern or buffer.read() != pattern:
                        wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong


CHECKS: Final[tuple[Callable[[Rig], None], ...]] = (
    a_failed_call_names_itself,
    devices_are_found_by_uuid,
    spans_have_an_end,
    any_bytes_can_be_written,
    what_is_closed_is_not_used,
    an_undo_that_fails_is_an_error,
    a_reservation_unmaps_what_it_mapped,
    a_thread_makes_the_context_its_own,
    many_threads_may_work_at_once,
)


def main() -> int:
    """Checks the library given, or the one that `cuda.load` finds; 1 if anything is wrong."""
    found = outcomes(cuda.load(*sys.argv[1:2]), CHECKS)
    for name, outcome in found.items():
        sys.stdout.write(f"{name}\t{outcome}\n")
    return 0 if set(found.values()) == {"ok"} else 1


if __name__ == "__main__":
    raise SystemExit(main())
