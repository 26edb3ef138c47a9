# SPDX-License-Identifier: Apache-2.0
"""This test will ask a completion server, a process of its own, over its socket: well, badly, and to hang up on it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from contract.mps_rig import eventually
from moe_models import make
from mpsafe.errors import BadRequest
from requires import requires

pytestmark = requires("torch")

TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on. "
COMMAND = [sys.executable, "-c", "from mpsafe.cli import main; raise SystemExit(main())", "experts"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class OverSocket(http.client.HTTPConnection):
    """HTTP to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(os.fspath(self._path))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("model") / "small-moe"
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([TEXT * 20], vocab_size=300, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer)
    tokenizer.save_pretrained(directory)
    make("Olmoe", vocab_size=300, max_position_embeddings=256).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def path(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a server."""
    path = tmp_path_factory.mktemp("serve") / "socket"
    process = subprocess.Popen([*COMMAND, "serve", model, "--listen", f"unix:{path}", "--cache", "50"], env=ENVIRONMENT)
    try:
        eventually(lambda: path.exists() or process.poll() is not None, "it listens")
        yield path
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)


def call(path: Path, method: str, url: str, body: object = None) -> tuple[int, Any]:
    connection = OverSocket(path)
    try:
        raw = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        connection.request(method, url, raw)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def completion(path: Path, **asked: object) -> Any:
    status, answer = call(path, "POST", "/v1/completions", {"prompt": TEXT, "max_tokens": 12, **asked})
    assert status == 200, answer
    return answer


def test_a_completion_is_that_of_the_model_with_all_its_experts(path: Path, model: Path) -> None:
    import torch

    from mpsafe.experts.recording import load

    loaded, tokenizer = load(model)
    loaded.set_experts_implementation("eager")
    torch.set_num_threads(1)
    given = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        made = loaded.generate(given, max_new_tokens=12, do_sample=False)
    wanted = tokenizer.decode(made[0, given.shape[-1] :], skip_special_tokens=True)
    answer = completion(path)
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == (wanted, "length")
    assert answer["usage"]["prompt_tokens"] == given.shape[-1]
    assert (answer["object"], answer["model"]) == ("text_completion", "small-moe")


def test_pieces_of_a_stream_are_the_whole(path: Path) -> None:
    whole = completion(path)["choices"][0]["text"]
    connection = OverSocket(path)
    connection.request("POST", "/v1/completions", json.dumps({"prompt": TEXT, "max_tokens": 12, "stream": True}))
    lines = connection.getresponse().read().decode().split("\n\n")
    connection.close()
    assert lines[-2:] == ["data: [DONE]", ""]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert "".join(event["choices"][0]["text"] for event in events) == whole
    assert events[-1]["choices"][0]["finish_reason"] == "length"


def test_what_is_drawn_with_a_seed_is_drawn_again(path: Path) -> None:
    one, same, other = (completion(path, temperature=1.0, seed=seed)["choices"][0]["text"] for seed in (1, 1, 2))
    assert one == same != other


def test_a_stop_word_ends_the_text_before_it(path: Path) -> None:
    whole = completion(path)["choices"][0]["text"]
    word = whole[len(whole) // 2 :][:2]
    answer = completion(path, stop=[word])["choices"][0]
    assert (answer["text"], answer["finish_reason"]) == (whole.split(word)[0], "stop")


def test_the_cache_says_what_it_has_seen(path: Path) -> None:
    status, seen = call(path, "GET", "/v1/experts")
    assert status == 200 and seen["slots"] == 32 and seen["experts"] == 64 and "emulated" in seen["link"]
    completion(path)
    _, after = call(path, "GET", "/v1/experts")
    asked = sum(after[name] - seen[name] for name in ("hits", "late", "misses"))
    assert asked > 0 and after["tokens"] > seen["tokens"]
    assert call(path, "GET", "/v1/models")[1]["data"][0]["id"] == "small-moe"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"nonsense", "malformed"),
        (b"", "truncated"),
        (b"\xff\xfe", "malformed"),
        ({}, "missing required field `prompt`"),
        ({"prompt": 3}, "Expected `str`"),
        ({"prompt": "x", "max_tokens": 0}, ">= 1"),
        ({"prompt": "x", "max_tokens": 1e9}, "max_tokens"),
        ({"prompt": "x", "temperature": -1}, "temperature"),
        ({"prompt": "x", "n": 2}, "only one completion"),
        ({"prompt": ""}, "prompt: 1 to"),
        ({"prompt": TEXT * 40}, "prompt: 1 to"),
        (b'{"prompt": "' + b"x" * (1 << 20) + b'"}', "truncated"),
    ],
)
def test_what_is_no_request_is_refused_with_a_sentence(path: Path, body: object, said: str) -> None:
    status, answer = call(path, "POST", "/v1/completions", body)
    assert status == 400 and said in answer["error"]["message"]
    assert completion(path, max_tokens=1)["choices"]


def test_who_hangs_up_keeps_nobody_waiting(path: Path) -> None:
    wanted = completion(path)["choices"][0]["text"]
    for _ in range(3):
        connection = OverSocket(path)
        connection.request("POST", "/v1/completions", json.dumps({"prompt": TEXT, "max_tokens": 200, "stream": True}))
        connection.getresponse().read(10)
        connection.close()
    assert completion(path)["choices"][0]["text"] == wanted


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"listen": "0.0.0.0:8000"}, "loopback"),
    ({"listen": "example.com:80"}, "loopback"),
    ({"listen": "127.0.0.1:99999"}, "loopback"),
    ({"listen": "unix:/nowhere/at/all"}, "a directory that is there"),
    ({"policy": "nobody"}, "nobody"),
    ({"cache_percent": 1.0}, "at least"),
]


@pytest.mark.parametrize(("changed", "said"), REFUSED)
def test_what_cannot_be_served_is_refused(model: Path, changed: dict[str, Any], said: str) -> None:
    from mpsafe.experts.serving import serve

    asked: dict[str, Any] = {
        "listen": "127.0.0.1:8000",
        "cache_percent": 50.0,
        "policy": "mpsafe",
        "prefetch": 2,
        "device": "cpu",
    }
    with pytest.raises(BadRequest, match=said):
        serve(model, sharing=None, **{**asked, **changed})


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "serve", tmp_path], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and os.fspath(tmp_path) in done.stderr and "Traceback" not in done.stderr
    done = subprocess.run(
        [*COMMAND, "serve", tmp_path, "--tenant", "chat"], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "--tenant and --uuid together" in done.stderr


def test_a_model_is_recorded_from_its_directory(model: Path, tmp_path: Path) -> None:
    text, out = tmp_path / "text", tmp_path / "trace.npz"
    text.write_text(TEXT)
    done = subprocess.run(
        [*COMMAND, "record", model, f"--text={text}", "--tokens=9", f"--out={out}"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"9 tokens, 4 layers of 16 experts: {out}\n"
    simulate = subprocess.run(
        [*COMMAND, "simulate", f"--trace={out}", "--cache=50", "--json"], capture_output=True, check=True
    )
    told = json.loads(simulate.stdout)
    assert told["slots"] == 32 and all(one["applicable"] for one in told["policies"] if "linear" not in one["policy"])
