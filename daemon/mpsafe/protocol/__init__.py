# SPDX-License-Identifier: Apache-2.0
"""The daemon's Varlink interfaces, one a file: what goes over the socket, for both ends.

Each file holds the interface as asyncvarlink describes it, and the `Protocol` that the daemon
implements behind it. Any Varlink client may use them; `org.varlink.service` describes them.
"""

from typing import Final

__all__ = ["DEFAULT_SOCKET", "PRODUCT", "URL", "VENDOR"]

DEFAULT_SOCKET: Final = "/run/mpsafe/mpsafe.varlink"
VENDOR: Final = "mpsafe"
PRODUCT: Final = "mpsafed"
URL: Final = "https://mpsafe.io"
