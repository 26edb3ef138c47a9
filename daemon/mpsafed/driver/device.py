# SPDX-License-Identifier: Apache-2.0
"""The requests of ffi/mpsafe_uapi.h, over whatever carries one: an ioctl, or the software kernel's socket."""

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, TypeVar

from mpsafe.errors import SourceLost
from mpsafe.model import Identity
from mpsafed.driver import ClientMode, Description, DriverClient, Place, Policy, Stats, Unit
from mpsafed.driver._uapi import ffi, lib
from mpsafed.driver.words import ACCESSES, CLIENT_MODES, CLIENT_STATES, FAULTS, FEATURES, MODES, PLACES, UNITS

if TYPE_CHECKING:
    from mpsafed.driver._uapi import Struct

__all__ = ["CLIENTS_MAX", "RECORD_MAX", "Device", "refused"]

CLIENTS_MAX: Final = 65_536
RECORD_MAX: Final = 4096

Word = TypeVar("Word", bound=str)


class Device(ABC):
    """A `Driver` but for its descriptor. SourceLost where the module speaks another ABI."""

    _about: Description

    @abstractmethod
    def _request(self, number: int, struct: "Struct | None") -> None:
        """Carries one request out; `struct` is filled in also where it is refused, which raises OSError."""

    def _greet(self) -> None:
        hello = ffi.new("struct mpsafe_hello *")
        hello.size, hello.abi = ffi.sizeof("struct mpsafe_hello"), lib.MPSAFE_ABI
        try:
            self._request(lib.MPSAFE_IOC_HELLO, hello)
        except OSError as error:
            if error.errno != errno.EPROTO:
                raise
            raise SourceLost(
                "driver",
                f"the module speaks ABI {hello.abi}, expected {lib.MPSAFE_ABI}: mpsafe and its driver are to be of one "
                f"version, `mpsafe driver build` makes it",
            ) from error
        smallest = ffi.sizeof("struct mpsafe_record")
        if hello.abi != lib.MPSAFE_ABI or not smallest <= hello.record_size <= RECORD_MAX:
            raise SourceLost(
                "driver",
                f"expected ABI {lib.MPSAFE_ABI} with records of {smallest} to {RECORD_MAX} bytes, "
                f"got ABI {hello.abi} with {hello.record_size}",
            )
        self._about = Description(
            abi=hello.abi,
            load=hello.load,
            loaded_ns=hello.loaded_ns,
            features=tuple(name for bit, name in FEATURES.items() if hello.features & bit),
            ring=hello.ring,
            record_bytes=hello.record_size,
            driver=_text(hello.driver, 32),
        )

    def describe(self) -> Description:
        """What the module says of itself."""
        return self._about

    def policy(self) -> Policy:
        """The policy that was set, and in `in_force` the mode that is in force now."""
        found = ffi.new("struct mpsafe_policy *")
        self._request(lib.MPSAFE_IOC_POLICY_GET, found)
        return Policy(
            mode=MODES.get(found.mode, "off"),
            places=frozenset(place for number, place in PLACES.items() if found.places >> number & 1),
            units=frozenset(unit for number, unit in UNITS.items() if found.units >> number & 1),
            sinks_max=found.sinks_max,
            budget_us=found.budget_us,
            grow_after=(found.grow_after[0], found.grow_after[1]),
            hold_ms=found.hold_ms,
            kill_ms=found.kill_ms,
            in_force=MODES.get(found.in_force, "off"),
        )

    def set_policy(self, policy: Policy) -> None:
        """Replaces all of it; counts as a heartbeat."""
        wanted = ffi.new("struct mpsafe_policy *")
        wanted.mode = _number(MODES, policy.mode)
        wanted.places = _mask(PLACES, policy.places)
        wanted.units = _mask(UNITS, policy.units)
        wanted.sinks_max, wanted.budget_us = policy.sinks_max, policy.budget_us
        wanted.grow_after[0], wanted.grow_after[1] = policy.grow_after
        wanted.hold_ms, wanted.kill_ms = policy.hold_ms, policy.kill_ms
        self._request(lib.MPSAFE_IOC_POLICY_SET, wanted)

    def heartbeat(self) -> None:
        """The owner lives."""
        self._request(lib.MPSAFE_IOC_HEARTBEAT, None)

    def clients(self) -> list[DriverClient]:
        """All clients, by number, at most CLIENTS_MAX. SourceLost if the numbers do not ascend."""
        found: list[DriverClient] = []
        last = 0
        while len(found) < CLIENTS_MAX:
            client = ffi.new("struct mpsafe_client *")
            client.client = last
            try:
                self._request(lib.MPSAFE_IOC_CLIENT_NEXT, client)
            except FileNotFoundError:
                break
            if client.client <= last:
                raise SourceLost("driver", f"expected a client behind number {last}, got number {client.client}")
            last = client.client
            found.append(
                DriverClient(
                    number=client.client,
                    identity=Identity(client.tgid, client.start_ticks),
                    uid=client.uid,
                    name=_text(client.comm, 16),
                    state=CLIENT_STATES.get(client.state, "unknown"),
                    mode=CLIENT_MODES.get(client.mode, "inherit"),
                    created_ns=client.created_ns,
                    doomed_ns=client.doomed_ns,
                    kill_ns=client.kill_ns,
                    faults=client.faults,
                    sinks=client.sinks,
                    sink_bytes=client.sink_bytes,
                    spent_ns=client.spent_ns,
                    refused=client.refused,
                )
            )
        return found

    def set_client_mode(self, number: int, mode: ClientMode) -> None:
        """A mode of its own for one client."""
        wanted = ffi.new("struct mpsafe_client_mode *")
        wanted.client, wanted.mode = number, _number(CLIENT_MODES, mode)
        self._request(lib.MPSAFE_IOC_CLIENT_MODE, wanted)

    def stats(self) -> Stats:
        """What was counted."""
        found = ffi.new("struct mpsafe_stats *")
        self._request(lib.MPSAFE_IOC_STATS, found)
        return Stats(
            absorbed=found.absorbed,
            passed=found.passed,
            orphans=found.orphans,
            refused=found.refused,
            killed=found.killed,
            records=found.records,
            lost=found.lost,
            expired=found.expired,
            latency_max_ns=found.latency_max_ns,
            clients=found.clients,
            doomed=found.doomed,
            sinks=found.sinks,
        )

    def release(self, number: int) -> None:
        """A doomed client's work is proven stopped."""
        self._answer(number, lib.MPSAFE_ANSWER_RELEASE)

    def extend(self, number: int, ms: int) -> None:
        """Puts the kernel's own kill and the hold of a doomed client off until `ms` from now."""
        self._answer(number, lib.MPSAFE_ANSWER_EXTEND, ms)

    def kill(self, number: int) -> None:
        """SIGKILL to a doomed client's process."""
        self._answer(number, lib.MPSAFE_ANSWER_KILL)

    def inject(self, number: int, address: int, *, access: str, fault: str, unit: Unit, place: Place) -> int:
        """A fault as if the hardware had reported it; its status, 0 if it was absorbed."""
        made = ffi.new("struct mpsafe_inject *")
        made.client, made.va = number, address
        made.access, made.fault = _number(ACCESSES, access), _number(FAULTS, fault)
        made.unit, made.place = _number(UNITS, unit), _number(PLACES, place)
        self._request(lib.MPSAFE_IOC_INJECT, made)
        return made.status

    def _answer(self, number: int, action: int, ms: int = 0) -> None:
        answer = ffi.new("struct mpsafe_answer *")
        answer.client, answer.action, answer.ms = number, action, ms
        self._request(lib.MPSAFE_IOC_ANSWER, answer)


def refused(number: int) -> OSError:
    """The error for an errno that a device gave."""
    return OSError(number, os.strerror(number))


def _number(words: Mapping[int, Word], word: Word) -> int:
    return next(number for number, known in words.items() if known == word)


def _mask(words: Mapping[int, Word], chosen: Iterable[Word]) -> int:
    return sum(1 << _number(words, word) for word in chosen)


def _text(raw: object, size: int) -> str:
    return ffi.string(raw, size).decode("utf-8", "replace")
