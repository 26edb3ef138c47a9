# SPDX-License-Identifier: Apache-2.0
NLMSG_DONE: int

class nlmsg(dict[str, object]):
    data: bytearray
    def encode(self) -> None: ...
