# SPDX-License-Identifier: Apache-2.0
"""mpsafe makes NVIDIA MPS safe to share: what anyone may import. ARCHITECTURE.md has the map."""

from typing import Final

__all__ = ["__version__"]

__version__: Final = "0.1.0"
