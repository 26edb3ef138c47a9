# SPDX-License-Identifier: Apache-2.0
"""GPUs of projects that publish no system file, by their makers' data sheets: bytes, dense bf16 FLOP/s, watts."""

from typing import Final

from mpsafe.operators.model import Device

__all__ = ["DATASHEETS", "HOP_S", "IDLE_SHARE"]

IDLE_SHARE: Final = 0.12  # of the peak power; an assumption: no table has the power of an idle GPU
HOP_S: Final = 1e-5  # as aiconfigurator's system files have it for all their GPUs


def _device(name: str, memory: float, flops: float, bandwidth: float, link: float, watts: float) -> Device:
    return Device(
        name=name,
        memory_bytes=memory,
        flops=flops,
        memory_bytes_per_s=bandwidth,
        link_bytes_per_s=link,
        idle_w=watts * IDLE_SHARE,
        peak_w=watts,
        clients_max=48,
    )


DATASHEETS: Final = {
    "RTX4090": _device("RTX4090", 24e9, 165.2e12, 1008e9, 32e9, 450),
    "RTXPRO6000": _device("RTXPRO6000", 96e9, 503.8e12, 1792e9, 64e9, 600),
    "a100": _device("a100", 80e9, 312e12, 2039e9, 300e9, 400),
    "a40": _device("a40", 48e9, 149.7e12, 696e9, 56e9, 300),
    "h100": _device("h100", 80e9, 989e12, 3350e9, 450e9, 700),
}
