# SPDX-License-Identifier: Apache-2.0
# What mpsafe uses of safetensors.

from typing import Any

class SafetensorError(Exception): ...

def safe_open(filename: str, framework: str, device: str) -> Any: ...
