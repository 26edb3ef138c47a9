# SPDX-License-Identifier: Apache-2.0
"""Leases: who gets how much of a device (grants, pure), how it is kept (leases), and the links' pages (links)."""
