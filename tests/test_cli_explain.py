# SPDX-License-Identifier: Apache-2.0
"""This test will check `mpsafe explain` as its users meet it: at a terminal, in a pipe, from a script."""

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mpsafe import catalogue
from mpsafe.cli.explain import LINE_BYTES_MAX, explain
from mpsafe.errors import UnknownXid

DATA = Path(__file__).parent / "data" / "xid"
COMMAND = [sys.executable, "-W", "error", "-c", "import sys; from mpsafe.cli import main; sys.exit(main())", "explain"]
# A buffer is what a flush is for.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
LINE = (
    "[  365.969681] NVRM: Xid (PCI:0000:01:00 GPU-I:05 GPU-CI:02): 31, pid=13705, name=UnrealEditor, channel "
    "0x0000000c, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC2 GPCCLIENT_PROP_0 faulted @ 0x1_00000000. "
    "Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ"
)
KEYS = [
    *("line", "xid", "pci", "gpu_instance", "compute_instance", "pid", "name", "channel", "caused_by", "class"),
    *("address", "fault_type", "access", "action"),
]
NOTHING: dict[str, Any] = dict.fromkeys(KEYS)


def run(*arguments: str, given: bytes | None = None) -> Result:
    return CliRunner().invoke(explain, arguments, input=given, env={"COLUMNS": "80"})


def answers(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("subject", ["31", " 31 ", "Xid 31", "xid31"])
def test_a_number(subject: str) -> None:
    result = run(subject)
    assert result.exit_code == 0
    words = " ".join(result.stdout.split())
    entry = catalogue.load()[31]
    for expected in (entry.meaning, entry.why, entry.stock_text, entry.mpsafe_text, "RESTART_APP", *entry.sources):
        assert expected in words
    assert result.stdout.startswith("Xid 31: MMU fault\n")


@pytest.mark.parametrize("number", list(catalogue.load()))
def test_every_entry_fits_80_columns_without_colours(number: int) -> None:
    result = run(str(number))
    assert result.exit_code == 0
    assert [line for line in result.stdout.splitlines() if len(line) > 80 or line != line.rstrip()] == []
    assert "\x1b" not in result.stdout


def test_colours_at_a_terminal() -> None:
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen([*COMMAND, "31"], stdout=follower, env=environment):
        os.close(follower)
        shown = os.read(leader, 64)
    os.close(leader)
    assert b"\x1b[1mXid 31: MMU fault" in shown


def test_a_number_as_json() -> None:
    entry = catalogue.load()[31]
    assert answers(run("31", "--json")) == [
        {
            "shape": "mpsafe.xid/1",
            "xid": 31,
            "name": entry.name,
            "meaning": entry.meaning,
            "class": "mmu",
            "why": entry.why,
            "stock": "clients-end",
            "stock_text": entry.stock_text,
            "mpsafe": "absorb",
            "mpsafe_text": entry.mpsafe_text,
            "immediate": "RESTART_APP",
            "immediate_text": entry.immediate_text,
            "follow_up": "WORKFLOW_XID_31",
            "follow_up_text": entry.follow_up_text,
            "sources": list(entry.sources),
        }
    ]


def test_an_unknown_number() -> None:
    result = run("9999")
    assert result.exit_code == 1 and result.stdout == ""
    assert isinstance(result.exception, UnknownXid) and result.exception.xid == 9999


def test_an_unknown_number_is_a_sentence_and_a_hint() -> None:
    ended = subprocess.run([*COMMAND, "9999"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "the catalogue has no Xid 9999" in ended.stderr and UnknownXid.hint in ended.stderr


def test_a_line() -> None:
    result = run(LINE)
    assert result.exit_code == 0
    for expected in (
        "Xid 31: MMU fault",
        "0000:01:00, GPU instance 5, compute instance 2",
        "UnrealEditor, pid 13705",
        "0x0000000c",
        "FAULT_PDE ACCESS_TYPE_VIRT_READ at 0x100000000",
        "RESTART_APP",
    ):
        assert expected in result.stdout


def test_a_line_as_json_is_what_stdin_gives() -> None:
    assert run(LINE, "--json").stdout == run("--stdin", "--json", given=LINE.encode()).stdout


def test_the_action_and_the_cause_that_a_line_gives() -> None:
    line = "NVRM: Xid (PCI:0000:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)"
    assert "asks for  Drain and Reset" in run(line).stdout
    assert "follows   Xid 149" in run("NVRM: Xid (PCI:0000:01:00): 45, Ch 1 caused by previous Xid 149").stdout


def test_a_line_with_a_number_that_nobody_has_described() -> None:
    result = run("NVRM: Xid (PCI:0000:01:00): 999, pid=7, name=x, words")
    assert result.exit_code == 1 and isinstance(result.exception, UnknownXid)
    assert "not in the catalogue" in result.stdout and "x, pid 7" in result.stdout


def test_a_name_steers_no_terminal() -> None:
    line = "NVRM: Xid (PCI:0000:01:00): 43, pid=7, name=[red]\x07\x9b31m\u202e[/], Ch 00000008"
    for result in (run(line), run("--stdin", given=line.encode())):
        assert "[red]\ufffd\ufffd31m\ufffd[/], pid 7" in result.stdout


@pytest.mark.parametrize("subject", ["hello", "", "12345678901", "-"])
def test_what_is_neither_is_a_usage_error(subject: str) -> None:
    result = run(subject)
    assert result.exit_code == 2
    assert "neither the number of an Xid nor a log line with one" in result.stderr


def test_a_line_without_an_xid_as_json() -> None:
    assert answers(run("hello", "--json")) == [NOTHING | {"line": 1}]


def test_a_line_that_is_no_utf8_is_an_argument_too() -> None:
    line = os.fsdecode(b"NVRM: Xid (PCI:0000:01:00): 43, pid=7, name=\xff\xfe, Ch 00000008")
    assert answers(run(line, "--json"))[0]["name"] == "\ufffd\ufffd"


def test_stdin_and_an_argument_exclude_each_other() -> None:
    assert run("--stdin", "31").exit_code == 2


def test_the_list() -> None:
    lines = run().stdout.splitlines()
    assert [int(line.split()[0]) for line in lines] == list(catalogue.load())
    assert " 79  device  RESTART_BM            fallen off the bus" in lines
    assert [line for line in lines if len(line) > 80] == []


def test_the_list_as_json() -> None:
    (document,) = answers(run("--json"))
    assert document["shape"] == "mpsafe.xids/1"
    assert [entry["xid"] for entry in document["entries"]] == list(catalogue.load())
    assert [entry for entry in document["entries"] if "shape" in entry] == []
    (alone,) = answers(run("79", "--json"))
    assert {"shape": "mpsafe.xid/1"} | document["entries"][78] == alone


@pytest.mark.parametrize("stem", ["samples", "more"])
def test_published_lines(stem: str) -> None:
    rows = (DATA / f"{stem}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    text = "\n".join(row.split("\t", maxsplit=3)[3] for row in rows)
    assert run("--stdin", "--json", given=text.encode()).stdout == (DATA / f"{stem}.jsonl").read_text()


def test_stdin_as_json_answers_each_line_with_each_key_in_order() -> None:
    given = b"\n" + LINE.encode() + b"\r\nhello\n\xff\xfe NVRM: Xid (PCI:0000:01:00): 79, \xff\n\0\n" + LINE.encode()
    found = answers(run("--stdin", "--json", given=given))
    assert [list(answer) for answer in found] == [KEYS] * 6
    assert [(answer["line"], answer["xid"]) for answer in found] == [
        (1, None),
        (2, 31),
        (3, None),
        (4, 79),
        (5, None),
        (6, 31),
    ]
    assert found[0] == NOTHING | {"line": 1}


def test_no_input_is_no_output() -> None:
    result = run("--stdin", "--json", given=b"")
    assert result.exit_code == 0 and result.stdout == ""


def test_stdin_as_text_tells_the_xids_and_how_much_was_read() -> None:
    result = run("--stdin", given=f"hello\n{LINE}\nNVRM: Xid (PCI:0000:02:00): 999, words\n".encode())
    assert result.exit_code == 0
    assert "line 2: Xid 31: MMU fault" in result.stdout and "line 3: Xid 999: not in the catalogue" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("3 lines read, 2 with an Xid")


def test_the_rest_of_an_endless_line_is_passed_over() -> None:
    given = b"x" * (3 * LINE_BYTES_MAX) + LINE.encode() + b"\n" + LINE.encode() + b"\n"
    exact = b"y" * LINE_BYTES_MAX + b"\n" + LINE.encode()
    found = answers(run("--stdin", "--json", given=given + exact))
    assert [(answer["line"], answer["xid"]) for answer in found] == [(1, None), (2, 31), (3, None), (4, 31)]


def test_each_line_is_answered_at_once() -> None:
    """The writer waits for the answer to one line before it writes the next."""
    with subprocess.Popen(
        [*COMMAND, "--stdin", "--json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=BUFFERED
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for number, (line, xid) in enumerate([(LINE, 31), ("hello", None), (LINE, 31)], start=1):
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], 30)
            assert ready, "the answer is kept back"
            answer = json.loads(process.stdout.readline())
            assert (answer["line"], answer["xid"]) == (number, xid)
        process.stdin.close()
        assert process.wait() == 0


def test_a_reader_that_leaves_is_no_error() -> None:
    with subprocess.Popen(
        [*COMMAND, "--stdin", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=BUFFERED,
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.stdout.readline() != b""
        process.stdout.close()
        process.stdin.write(b"two\n")
        process.stdin.close()
        assert process.wait() == 0
        assert process.stderr.read() == b""


def test_it_needs_neither_the_daemon_nor_an_event_loop() -> None:
    program = (
        "import sys; from mpsafe.cli import cli; cli(['explain', '31', '--json'], standalone_mode=False)\n"
        "heavy = {'asyncio', 'asyncvarlink', 'cffi', 'mpsafe.client', 'mpsafe.protocol', 'mpsafed', 'rich'}\n"
        "assert heavy.isdisjoint(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
