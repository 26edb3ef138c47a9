# SPDX-License-Identifier: Apache-2.0
"""Torch models whose weights and caches lie in the vault: what one process has loaded another one uses as it is.

    from mpsafe import tensors

    tensors.hold(vault, "weights", model)              # a loaded model's weights, moved into an immutable region
    tensors.load(vault, "weights", files)              # safetensors files, straight into one
    tensors.attach(vault, "weights", model)            # another process's model of the same class: the same bytes

    from mpsafe.tensors.cache import SlotCache         # wants transformers

    past = SlotCache.of(cache, slot, model.config, dtype=model.dtype)           # over a slot of a KvCache
    model(token, past_key_values=past)
    past.wrote()
    cache.commit()

Models need no change. Wants the extra `torch`. On a GPU the tensors are CUDA tensors over the mapped region; on the
software GPU they are CPU tensors over the same memory.
"""

from mpsafe.tensors.files import load
from mpsafe.tensors.weights import Weights, attach, hold

__all__ = ["Weights", "attach", "hold", "load"]
