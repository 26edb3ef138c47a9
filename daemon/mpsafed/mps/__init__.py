# SPDX-License-Identifier: Apache-2.0
"""MPS as it is: its control program, and the servers and clients that it tells of."""
