# SPDX-License-Identifier: Apache-2.0
"""A completion server in OpenAI's shape over a model whose experts are offloaded, on a Unix socket or loopback.

    POST /v1/completions   {"prompt": "...", "max_tokens": 16, "temperature": 0, "stop": ["\\n"], "stream": true}
    GET  /v1/models        the one that is served
    GET  /v1/experts       what its cache has seen: hits, misses, bytes, waits

One request is computed at a time; the others wait. A client that hangs up ends its request.
"""

import asyncio
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Annotated, Any, Final

import msgspec
import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers import AsyncTextIteratorStreamer, StoppingCriteria, StoppingCriteriaList

from mpsafe.experts.offload import Offloaded

__all__ = ["application"]

BODY_BYTES_MAX: Final = 1 << 20
TOKENS_MAX: Final = 1 << 16


class _Asked(msgspec.Struct):
    """A completion's request; what OpenAI's interface has more is left alone."""

    prompt: str
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=TOKENS_MAX)] = 16
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] | None = None
    stop: Annotated[str, msgspec.Meta(min_length=1)] | Annotated[list[str], msgspec.Meta(max_length=16)] | None = None
    stream: bool = False
    n: int = 1


_ASKED: Final = msgspec.json.Decoder(_Asked)


class _HungUp(StoppingCriteria):
    """Ends a generation whose client is gone."""

    def __init__(self) -> None:
        self.told = threading.Event()

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return torch.full((len(input_ids),), self.told.is_set(), device=input_ids.device)


def application(offloaded: Offloaded, tokenizer: Any, *, name: str) -> Starlette:
    """The server's routes. `name`: what the model is called in answers."""
    served = _Served(offloaded, tokenizer, name)
    return Starlette(
        routes=[
            Route("/v1/completions", served.complete, methods=["POST"]),
            Route("/v1/models", served.models),
            Route("/v1/experts", served.experts),
        ]
    )


class _Served:
    def __init__(self, offloaded: Offloaded, tokenizer: Any, name: str) -> None:
        self._offloaded = offloaded
        self._tokenizer = tokenizer
        self._name = name
        self._computing = ThreadPoolExecutor(1, "mpsafe-generate")
        self._began = int(time.time())

    async def models(self, request: Request) -> Response:
        listed = {"id": self._name, "object": "model", "created": self._began, "owned_by": "mpsafe"}
        return JSONResponse({"object": "list", "data": [listed]})

    async def experts(self, request: Request) -> Response:
        served = self._offloaded
        size = {"slots": served.slots, "experts": served.shape.total, "cache_bytes": served.cache_bytes}
        return JSONResponse({**asdict(served.counters), **size, "link": served.link.name})

    async def complete(self, request: Request) -> Response:
        try:
            asked = _ASKED.decode(await _body(request))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _refusal(str(error))
        if asked.n != 1:
            return _refusal("n: only one completion of a prompt is served")
        given = self._tokenizer(asked.prompt, return_tensors="pt")["input_ids"]
        most = int(getattr(self._offloaded.model.config, "max_position_embeddings", TOKENS_MAX))
        if not 0 < given.shape[-1] <= most - asked.max_tokens:
            room = f"1 to {most - asked.max_tokens} tokens beside max_tokens are expected"
            return _refusal(f"prompt: {room}, it has {given.shape[-1]}")
        answers = self._answers(asked, given)
        if asked.stream:
            return StreamingResponse(self._events(answers), media_type="text/event-stream")
        text, reason = "", "length"
        async for piece, why in answers:
            text, reason = text + piece, why or reason
        told = self._choice(text, reason)
        used = len(self._tokenizer(text)["input_ids"])
        counts = {"prompt_tokens": given.shape[-1], "completion_tokens": used}
        return JSONResponse({**told, "usage": {**counts, "total_tokens": sum(counts.values())}})

    async def _events(self, answers: AsyncIterator[tuple[str, str | None]]) -> AsyncIterator[str]:
        async for piece, why in answers:
            yield f"data: {json.dumps(self._choice(piece, why))}\n\n"
        yield "data: [DONE]\n\n"

    def _choice(self, text: str, why: str | None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": why}
        names = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
        return {**names, "model": self._name, "choices": [choice]}

    async def _answers(self, asked: _Asked, given: Any) -> AsyncIterator[tuple[str, str | None]]:
        """Pieces of text; the last with why it ends."""
        hung_up = _HungUp()
        streamer = AsyncTextIteratorStreamer(self._tokenizer, skip_prompt=True, skip_special_tokens=True)
        loop = asyncio.get_running_loop()
        made = loop.run_in_executor(self._computing, self._generate, asked, given, streamer, hung_up)
        text = ""
        try:
            async for piece in streamer:
                text += piece
                if (end := _stopped(text, asked.stop)) is not None:
                    yield piece[: len(piece) - (len(text) - end)], "stop"
                    return
                yield piece, None
            yield "", "length" if await made >= asked.max_tokens else "stop"
        finally:
            hung_up.told.set()
            made.cancel()  # if it has not begun

    def _generate(self, asked: _Asked, given: Any, streamer: Any, hung_up: _HungUp) -> int:
        """Returns how many tokens it made; the streamer is ended whatever happens."""
        drawn: dict[str, Any] = {"do_sample": asked.temperature > 0}
        if asked.temperature > 0:
            drawn |= {"temperature": asked.temperature, "top_p": asked.top_p}
        try:
            with torch.no_grad():
                if asked.seed is not None:
                    torch.manual_seed(asked.seed)
                made = self._offloaded.model.generate(
                    given.to(self._offloaded.model.device),
                    max_new_tokens=asked.max_tokens,
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([hung_up]),
                    **drawn,
                )
        except BaseException:
            streamer.end()
            raise
        return int(made.shape[-1] - given.shape[-1])


async def _body(request: Request) -> bytes:
    """At most BODY_BYTES_MAX bytes; what is longer is cut, and no JSON then."""
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > BODY_BYTES_MAX:
            break
    return bytes(found[:BODY_BYTES_MAX])


def _stopped(text: str, stop: str | list[str] | None) -> int | None:
    """Where the first of the stop words begins."""
    words = [stop] if isinstance(stop, str) else stop or []
    places = [text.find(word) for word in words if word and word in text]
    return min(places, default=None)


def _refusal(message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, status_code=400)
