# SPDX-License-Identifier: Apache-2.0
"""Models and texts in files, for what is recorded of them."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from mpsafe.errors import BadModel, BadTrace
from mpsafe.experts.record import record
from mpsafe.experts.trace import Trace

__all__ = ["load", "record_texts"]


def load(model: Path) -> tuple[Any, Any]:
    """A causal model and its tokenizer, from a directory alone. BadModel says what is wrong with it."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        return AutoModelForCausalLM.from_pretrained(model, local_files_only=True).eval(), tokenizer
    except (OSError, ValueError, KeyError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise BadModel(os.fspath(model), said[0]) from error


def record_texts(model: Path, texts: Iterable[Path], *, tokens: int) -> Trace:
    """The trace of the model over the first `tokens` tokens of each text. NotMixture for a model without experts."""
    loaded, tokenizer = load(model)

    def requests() -> Iterable[list[int]]:
        for path in texts:
            ids = tokenizer(path.read_text(encoding="utf-8", errors="replace"))["input_ids"][:tokens]
            if not ids:
                raise BadTrace(os.fspath(path), "", "there is no token in it")
            yield ids

    return record(loaded, requests(), name=model.name)
