# SPDX-License-Identifier: Apache-2.0
"""The Varlink service: connections and their limits, and what stands behind each interface."""
