# SPDX-License-Identifier: Apache-2.0
"""RouterArena's files, as they are: predictions, configurations and cached results. Tolerant in, unchanged out.

Both spellings of a key are read, stray keys are kept, what is absent is None; `validation.py` is the strict one.
Formats: RouterArena's README, router_inference/check_config_prediction_files.py and llm_inference/run.py.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from mpsafe.errors import BadArenaFile

__all__ = [
    "Cached",
    "Object",
    "Prediction",
    "decode",
    "objects",
    "read_cached",
    "read_config",
    "read_predictions",
    "write",
]

Object = dict[str, Any]

FILE_BYTES_MAX: Final = 1 << 30
QUERY_KEYS: Final = ("global index", "global_index")
PROMPT_KEYS: Final = ("prompt", "prompt_formatted")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row. `number`: its place in the file, from 1; `raw`: the row itself, with every key that it came with."""

    number: int
    raw: Object

    @property
    def query(self) -> str | None:
        """The global index, under either key."""
        return _text(self.raw, QUERY_KEYS)

    @property
    def prompt(self) -> str | None:
        """The prompt, under either key."""
        return _text(self.raw, PROMPT_KEYS)

    @property
    def model(self) -> str | None:
        """The model that the router picked."""
        return _text(self.raw, ("prediction",))

    @property
    def for_optimality(self) -> bool:
        """Whether the row is another model's answer, which the router did not pick; an absent key is false."""
        return self.raw.get("for_optimality") is True

    @property
    def generated(self) -> Object | None:
        """What the model answered, or None."""
        return _object(self.raw.get("generated_result"))

    @property
    def tokens(self) -> Object:
        """`input_tokens`, `output_tokens`, `total_tokens` of the answer, also where they have OpenAI's names."""
        return tokens(self.generated)


@dataclass(frozen=True, slots=True)
class Cached:
    """One model's answer to one query, from a file of cached results (llm_inference/run.py)."""

    number: int
    raw: Object

    @property
    def query(self) -> str:
        """The global index."""
        return str(self.raw["global_index"])

    @property
    def model(self) -> str:
        """The model that answered."""
        return str(self.raw.get("llm_selected") or "")

    @property
    def answer(self) -> str:
        """The whole text of the answer."""
        return str(self.raw.get("generated_answer") or "")

    @property
    def evaluation(self) -> Object | None:
        """`extracted_answer`, `ground_truth`, `score`, `metric`, `inference_cost`, or None where it was not graded."""
        return _object(self.raw.get("evaluation_result"))


def tokens(generated: Mapping[str, Any] | None) -> Object:
    """The token counts of a generated result, by RouterArena's names; OpenAI's are taken where those are absent."""
    usage = _object(generated.get("token_usage")) if generated else None
    if usage is None:
        return {}
    return {
        "input_tokens": usage.get("input_tokens", usage.get("prompt_tokens")),
        "output_tokens": usage.get("output_tokens", usage.get("completion_tokens")),
        "total_tokens": usage.get("total_tokens"),
    }


def decode(path: Path, data: bytes) -> Any:
    """A JSON document. NaN and Infinity, which Python writes and JSON does not have, are read as such."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        cut = "; the file may be cut short" if error.pos >= len(data.rstrip()) - 1 else ""
        raise BadArenaFile(os.fspath(path), f"line {error.lineno}", f"{error.msg.lower()}{cut}") from None
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise BadArenaFile(os.fspath(path), "", f"it is no JSON in UTF-8: {error}") from None


def contents(path: Path) -> bytes:
    """All bytes of a file of at most 1 GiB."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise BadArenaFile(os.fspath(path), "", "it has more than 1 GiB")
        return path.read_bytes()
    except OSError as error:
        raise BadArenaFile(os.fspath(path), "", f"cannot be read: {error.strerror or error}") from None


def read_predictions(path: Path, data: bytes | None = None) -> list[Prediction]:
    """The rows of a prediction file; an old form wraps them in `{"results": [...]}`."""
    found = decode(path, contents(path) if data is None else data)
    if isinstance(found, dict):
        found = cast("Object", found).get("results")
    rows = objects(path, found)
    if not rows:
        raise BadArenaFile(os.fspath(path), "", "there is no row in it")
    return [Prediction(number, raw) for number, raw in enumerate(rows, 1)]


def read_cached(path: Path) -> list[Cached]:
    """Cached results, a JSON object a line; each needs a `global_index`."""
    rows: list[Any] = []
    lines = contents(path).splitlines()
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(decode(path, line))
            except BadArenaFile as error:
                cut = "; the file ends in this line, so it may be cut short" if number == len(lines) else ""
                raise BadArenaFile(error.file, f"line {number}", error.problem + cut) from None
    found = [Cached(number, raw) for number, raw in enumerate(objects(path, rows), 1)]
    for row in found:
        if not isinstance(row.raw.get("global_index"), str):
            raise BadArenaFile(os.fspath(path), f"line {row.number}", "global_index is missing, or no text")
    if not found:
        raise BadArenaFile(os.fspath(path), "", "there is no row in it")
    return found


def read_config(path: Path) -> dict[str, float | None]:
    """The models of a router's configuration, each with its dollars per 1,000 queries where the old form has them."""
    found = _object(decode(path, contents(path)))
    parameters = _object(found.get("pipeline_params")) if found else None
    models: Any = parameters.get("models") if parameters else None
    try:
        listed: list[str] | dict[str, float | None] = msgspec.convert(models, list[str] | dict[str, float | None])
    except msgspec.ValidationError:
        problem = "a list of names, or a map from name to cost, is expected"
        raise BadArenaFile(os.fspath(path), "pipeline_params.models", problem) from None
    return dict.fromkeys(listed) if isinstance(listed, list) else listed


def write(path: Path, rows: Sequence[Prediction]) -> None:
    """A prediction file that RouterArena takes: indented by two, UTF-8 unescaped; it replaces the old one at once."""
    text = json.dumps([row.raw for row in rows], indent=2, ensure_ascii=False)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def objects(path: Path, rows: Any) -> list[Object]:
    """The rows of a JSON array, each of which must be an object."""
    try:
        return msgspec.convert(rows, list[Object])
    except msgspec.ValidationError as error:
        found = re.search(r"\$\[(\d+)\]", str(error))
        place = f"row {int(found[1]) + 1}" if found else ""
        raise BadArenaFile(
            os.fspath(path), place, "an object is expected" if found else "a JSON array is expected"
        ) from None


def _text(raw: Object, keys: Sequence[str]) -> str | None:
    return next((value for key in keys if isinstance(value := raw.get(key), str) and value), None)


def _object(value: Any) -> Object | None:
    return cast("Object", value) if isinstance(value, dict) else None
