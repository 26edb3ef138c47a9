# SPDX-License-Identifier: Apache-2.0
"""The requests of ffi/mpsafe_uapi.h: their numbers and the layouts of their structs.

tests/test_uapi.py compares them with what the compiler sees.
"""

import struct
from typing import Final

__all__ = [
    "ANSWER", "ANSWER_NUMBER", "CLIENT", "CLIENT_MODE", "CLIENT_MODE_NUMBER", "CLIENT_NEXT_NUMBER",
    "HEARTBEAT_NUMBER", "HELLO", "HELLO_NUMBER", "INJECT", "INJECT_NUMBER", "POLICY", "POLICY_GET_NUMBER",
    "POLICY_SET_NUMBER", "STATS", "STATS_NUMBER",
]  # fmt: skip

HELLO: Final = struct.Struct("<IIQQIIII32s")
POLICY: Final = struct.Struct("<HHIIII2III3I")
CLIENT: Final = struct.Struct("<QiIQQQQQQQIIHHI16s")
CLIENT_MODE: Final = struct.Struct("<QHHHH")
STATS: Final = struct.Struct("<9QIIII")
ANSWER: Final = struct.Struct("<QII")
INJECT: Final = struct.Struct("<QQHHHHII16s")

_MAGIC: Final = 0xE7
_WRITE, _READ = 1, 2


def _number(direction: int, number: int, size: int) -> int:
    """ioctl.h's _IOC()."""
    return direction << 30 | size << 16 | _MAGIC << 8 | number


HELLO_NUMBER: Final = _number(_READ | _WRITE, 0, HELLO.size)
POLICY_SET_NUMBER: Final = _number(_WRITE, 1, POLICY.size)
POLICY_GET_NUMBER: Final = _number(_READ, 2, POLICY.size)
HEARTBEAT_NUMBER: Final = _number(0, 3, 0)
CLIENT_NEXT_NUMBER: Final = _number(_READ | _WRITE, 4, CLIENT.size)
CLIENT_MODE_NUMBER: Final = _number(_WRITE, 5, CLIENT_MODE.size)
STATS_NUMBER: Final = _number(_READ, 6, STATS.size)
ANSWER_NUMBER: Final = _number(_WRITE, 7, ANSWER.size)
INJECT_NUMBER: Final = _number(_READ | _WRITE, 8, INJECT.size)
