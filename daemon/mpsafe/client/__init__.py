# SPDX-License-Identifier: Apache-2.0
"""The client library: `Client` blocks, `AsyncClient` awaits; both raise the errors the daemon sent.

    >>> from mpsafe.client import Client
    >>> with Client(socket) as client:
    ...     client.describe().version == version
    ...     [tenant.name for tenant in client.tenants()]
    True
    ['chat', 'embed', 'batch']

Both connect when they are first used, and again after the connection was lost: a stream of events
goes on behind the last entry that was read. A descriptor that is passed belongs to the object that
is returned, and is closed with it.
"""

from mpsafe.client.aio import AsyncClient
from mpsafe.client.attachment import Attachment
from mpsafe.client.kept import KeptContent
from mpsafe.client.opened import OpenedRegion
from mpsafe.client.sync import Client

__all__ = ["AsyncClient", "Attachment", "Client", "KeptContent", "OpenedRegion"]
