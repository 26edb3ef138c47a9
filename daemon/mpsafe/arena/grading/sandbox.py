# SPDX-License-Identifier: Apache-2.0
"""Code of a model, executed where it can do no harm: bubblewrap, no network, no home, read-only system, limits.

What passes and what fails follows llm_evaluation/livecodebench_util.py (4714a9a): the last fenced block; a test of kind
`stdin` compares what is printed, one of kind `functional` what the last function of the first line's name returns; the
first test that fails ends it. The published code runs it in a plain subprocess; that is no sandbox.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from mpsafe.arena.grading.families import CODE, Grade
from mpsafe.errors import NoSandbox

__all__ = ["check", "execute", "extract"]

SECONDS: Final = 6
MEMORY_BYTES: Final = 1 << 30
_BLOCK: Final = re.compile(r"```[a-zA-Z]*\n(.*?)```", re.DOTALL)

RUNNER: Final = """
import contextlib, io, json, resource, signal, sys

memory, seconds = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_NPROC, (64, 64))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
told = json.load(sys.stdin)
verdict = sys.stdout

def arguments(test):
    if isinstance(test, dict):
        return [], test
    if not isinstance(test, str):
        return [test], {}
    return [json.loads(line) for line in test.splitlines() if line.strip()], {}

def passes(test):
    out = io.StringIO()
    if test.get("testtype") == "stdin":
        sys.stdin = io.StringIO(test["input"])
        with contextlib.redirect_stdout(out):
            exec(told["code"], {"__name__": "__main__"})
        return out.getvalue().strip() == test["output"].strip()
    names = {}
    with contextlib.redirect_stdout(out):
        exec(told["code"], names)
        name = told["code"].split("(")[0].split()[-1]
        given, named = arguments(test["input"])
        result = names[name](*given, **named)
    expected = test["output"]
    if isinstance(expected, str):
        try:
            expected = json.loads(expected)
        except ValueError:
            pass
    return result == expected

passed = 0
for test in told["tests"]:
    signal.alarm(seconds)
    try:
        if not passes(test):
            break
    except BaseException:
        break
    passed += 1
signal.alarm(0)
verdict.write(json.dumps({"passed": passed}))
"""


def extract(answer: str) -> str:
    """The last fenced block, or nothing."""
    blocks = _BLOCK.findall(answer)
    return str(blocks[-1]).split("</code>")[0].replace("<code>", "") if blocks else ""


def check() -> None:
    """NoSandbox where bubblewrap is missing, or may not make the namespaces that it needs."""
    _run(["/bin/true"], "")


def execute(answer: str, tests: Sequence[dict[str, Any]]) -> Grade:
    """1 where the code passes all tests. NoSandbox where there is none; nothing is executed then."""
    code = extract(answer)
    if not code or not tests:
        return Grade(0.0, code, CODE, "there is no fenced code in it" if not code else "there are no tests")
    told = json.dumps({"code": code, "tests": list(tests)})
    command = [str(Path(sys.executable).resolve()), "-I", "-S", "-c", RUNNER, str(MEMORY_BYTES), str(SECONDS)]
    try:
        said = _run(command, told, seconds=(SECONDS + 1) * len(tests) + 5)
    except subprocess.TimeoutExpired:
        return Grade(0.0, code, CODE, "it does not end")
    try:
        passed = int(json.loads(said)["passed"])
    except (ValueError, KeyError, TypeError):
        return Grade(0.0, code, CODE, "it ended its interpreter")
    return Grade(float(passed == len(tests)), code, CODE, "" if passed == len(tests) else f"test {passed + 1} fails")


def _run(command: Sequence[str], said: str, *, seconds: float = 10) -> str:
    wrapper = shutil.which("bwrap")
    if wrapper is None:
        raise NoSandbox("bwrap is not installed")
    shut_in = [
        wrapper,
        "--unshare-all",
        "--unshare-user",
        "--uid",
        "65534",
        "--gid",
        "65534",
        "--die-with-parent",
        "--new-session",
    ]
    shut_in += [
        "--clearenv",
        "--cap-drop",
        "ALL",
        "--tmpfs",
        "/tmp",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--chdir",
        "/tmp",
    ]
    for place in ("/usr", "/bin", "/lib", "/lib64", sys.base_prefix):
        if Path(place).is_symlink():
            shut_in += ["--symlink", str(Path(place).readlink()), place]
        elif Path(place).exists():
            shut_in += ["--ro-bind", place, place]
    run = subprocess.run([*shut_in, *command], input=said, capture_output=True, text=True, check=False, timeout=seconds)
    if run.returncode and run.stderr.startswith("bwrap:"):
        raise NoSandbox(run.stderr.strip().splitlines()[0])
    return run.stdout
