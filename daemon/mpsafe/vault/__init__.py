# SPDX-License-Identifier: Apache-2.0
"""GPU memory that outlives its process: regions of the vault, mapped into this process's device addresses.

    >>> from mpsafe.client import Client
    >>> from mpsafe.vault import Vault
    >>> with Client(socket) as client, client.attach("chat"):
    ...     vault = Vault(client, context, "chat")
    ...     with vault.create("weights", "immutable", 1 << 20) as weights:
    ...         weights.write(b"as they were trained")
    ...         digest = weights.commit().digest
    ...     with vault.open("weights") as again:
    ...         again.read(20), again.info.digest == digest, again.writable
    (b'as they were trained', True, False)

`Durable` publishes generations of what changes, `KvCache` keeps a cache of keys and values that way.
"""

from mpsafe.vault.checksum import Checksum
from mpsafe.vault.durable import Durable, Generation
from mpsafe.vault.kv import Entry, KvCache
from mpsafe.vault.region import Region, Vault

__all__ = ["Checksum", "Durable", "Entry", "Generation", "KvCache", "Region", "Vault"]
