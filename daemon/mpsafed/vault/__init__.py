# SPDX-License-Identifier: Apache-2.0
"""GPU memory that no client owns, held by file descriptors: ARCHITECTURE, "The vault"."""
