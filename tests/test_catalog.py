# SPDX-License-Identifier: Apache-2.0
"""This test will compare the journal's catalogue with the messages there are, and have journalctl compile it."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from mpsafe.model import EventKind
from mpsafed import journal
from requires import requires

CATALOG = Path(__file__).parent.parent / "systemd" / "mpsafe.catalog"
ENTRIES = dict(re.findall(r"^-- ([0-9a-f]{32})\n(.*?)(?=^-- |\Z)", CATALOG.read_text(), re.MULTILINE | re.DOTALL))

EVENT = {"MPSAFE_EVENT", "MPSAFE_SEQ", "MPSAFE_PHASE"}
ACTION = EVENT | {"MPSAFE_ACTION", "MPSAFE_ACTION_STATE", "MPSAFE_DETAIL"}
# What a message always has; journalctl shows the name of a field that is missing.
SENT: dict[journal.Told, set[str]] = {
    **dict.fromkeys(get_args(EventKind), EVENT),
    "fence_begun": ACTION | {"CLIENT_PID"},
    "fence_ended": ACTION | {"CLIENT_PID"},
    "restart_ended": ACTION,
    "blame_unknown": EVENT,
    "control_ended": {"MPS_CONTROL"},
    "source_lost": {"MPSAFE_SOURCE", "MPSAFE_DETAIL"},
    "limits_drifted": {"MPS_CONTROL", "MPSAFE_DETAIL"},
}


def test_each_message_is_explained_and_no_other() -> None:
    assert list(ENTRIES) == list(journal.MESSAGE_IDS.values())


@pytest.mark.parametrize("told", journal.MESSAGE_IDS)
def test_an_explanation_has_a_subject_and_names_fields_that_are_sent(told: journal.Told) -> None:
    head, _, text = ENTRIES[journal.MESSAGE_IDS[told]].partition("\n\n")
    assert re.fullmatch(r"Subject: .+\nDefined-By: mpsafe\nDocumentation: man:mpsafed?(\.toml)?\(\d\)", head)
    assert len(text.split()) > 15
    assert set(re.findall("@(.*?)@", head + text)) <= SENT[told]


@requires("journalctl")
def test_journalctl_compiles_it(tmp_path: Path) -> None:
    folder = tmp_path / "usr" / "lib" / "systemd" / "catalog"
    folder.mkdir(parents=True)
    shutil.copy(CATALOG, folder)
    (tmp_path / "var" / "lib" / "systemd" / "catalog").mkdir(parents=True)
    command = ["journalctl", f"--root={tmp_path}"]
    update = subprocess.run([*command, "--update-catalog"], capture_output=True, text=True, check=True)
    assert update.stderr == ""
    listed = subprocess.run([*command, "--list-catalog"], capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in listed.splitlines()} == set(ENTRIES)
