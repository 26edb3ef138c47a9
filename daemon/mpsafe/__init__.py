# SPDX-License-Identifier: Apache-2.0
"""mpsafe makes NVIDIA MPS safe to share: what anyone may import. ARCHITECTURE.md has the map."""
