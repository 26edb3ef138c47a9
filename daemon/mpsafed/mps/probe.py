# SPDX-License-Identifier: Apache-2.0
"""Which language a running control daemon speaks. The program follows the daemon, whatever its own flags say."""

import re
from typing import Final

from mpsafe.errors import ControlFailed
from mpsafed.mps.dialect import Dialect
from mpsafed.mps.front_end import FrontEnd
from mpsafed.mps.v2 import V2
from mpsafed.mps.v3 import V3

__all__ = ["probe"]

# The one question to which v2 never answers nothing: an empty list of servers looks like no answer.
V2_QUESTION: Final = "get_default_active_thread_percentage"
V2_ANSWER: Final = re.compile(r"\d{1,3}\.\d{1,6}")
V3_COLUMNS: Final = {"name", "uid", "pid", "status"}


async def probe(front_end: FrontEnd) -> Dialect | None:
    """The dialect; None if an answer comes that is neither's. Raises ControlFailed where none comes at all."""
    failed: ControlFailed | None = None
    answer = ""
    try:
        answer = await front_end.ask(V2_QUESTION)
    except ControlFailed as error:
        failed = error
    if V2_ANSWER.fullmatch(answer.strip()):
        return V2(front_end)
    try:
        header = (await front_end.call("server", "list", "--format=csv")).partition("\n")[0]
    except ControlFailed:
        if failed is not None:
            raise failed from None
        return None
    named = {column.strip().lower() for column in header.split(",")}
    if named >= V3_COLUMNS:
        return V3(front_end)
    if failed is not None and not header:
        raise failed
    return None
