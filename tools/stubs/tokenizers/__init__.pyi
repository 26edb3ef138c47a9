# SPDX-License-Identifier: Apache-2.0
# What the training of a small model uses of tokenizers.

from typing import Any

ByteLevelBPETokenizer: Any
