# SPDX-License-Identifier: Apache-2.0
"""A trained router as a file: numbers only, nothing in it is executed."""

import io
import os
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from mpsafe.arena.files import contents
from mpsafe.arena.routers.base import Query
from mpsafe.arena.routers.learned import PREDICTORS, Embedding, Learned
from mpsafe.errors import BadArenaFile

__all__ = ["About", "load", "save"]

HEADER: Final = "about"


@dataclass(frozen=True, slots=True)
class About:
    """`router`: one of PREDICTORS; `words`: in the order of the embedding's rows; `trained_on`: the files, with so many
    `queries`; `comparable`: whether none of them is RouterArena's.
    """

    router: str
    models: list[str]
    words: list[str]
    seed: int
    queries: int
    trained_on: str
    comparable: bool


def save(path: Path, router: Learned, *, seed: int, queries: int, trained_on: str, comparable: bool) -> About:
    """Writes a router; what it says of itself."""
    place = router.embedding.place
    words = sorted(place, key=place.__getitem__)
    about = About(router.name, list(router.models), words, seed, queries, trained_on, comparable)
    arrays: dict[str, Any] = {
        f"predict.{field.name}": getattr(router.predictor, field.name) for field in fields(router.predictor)
    }
    arrays |= {"cost": router.cost, "basis": router.embedding.basis}
    arrays[HEADER] = np.frombuffer(msgspec.json.encode(about), np.uint8)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return about


def load(path: Path) -> tuple[Learned, About]:
    """A router that was saved. BadArenaFile where it is none, or its numbers do not fit together."""
    try:
        with np.load(io.BytesIO(contents(path)), allow_pickle=False) as arrays:
            about = msgspec.json.decode(arrays[HEADER].tobytes(), type=About)
            kind = PREDICTORS[about.router]
            own = {field.name: np.asarray(arrays[f"predict.{field.name}"], np.float64) for field in fields(kind)}
            place = {word: at for at, word in enumerate(about.words)}
            basis, cost = (np.asarray(arrays[name], np.float64) for name in ("basis", "cost"))
            router = Learned(about.router, about.models, cost, Embedding(place, basis), kind(**own))
        if router.predict(Query("", " ".join(about.words[:1]))).shape != (len(about.models),):
            raise ValueError("its numbers are not for its models")
        router.route(Query("", ""))
    except (EOFError, LookupError, StopIteration, ValueError, msgspec.MsgspecError, zipfile.BadZipFile) as error:
        raise BadArenaFile(os.fspath(path), "", f"it is no trained router: {error}") from None
    return router, about
