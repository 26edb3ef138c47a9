# SPDX-License-Identifier: Apache-2.0
"""The kernel part: NVIDIA's nvidia-uvm with mpsafe's hooks, from its source to the module that runs."""
