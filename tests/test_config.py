# SPDX-License-Identifier: Apache-2.0
"""This test will show that a configuration means what it says, and that each mistake is named with its place."""

import os
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsafe.errors import BadConfig
from mpsafed import config as module
from mpsafed.config import Config, TenantConfig, load
from mpsafed.policy import TenantPolicy


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mpsafe.toml"


def drop_in(path: Path, name: str, text: str) -> None:
    folder = path.with_name(path.name + ".d")
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def test_an_empty_file_is_all_defaults(path: Path) -> None:
    path.write_text("")
    assert load(path) == Config()


def test_the_default_file_may_be_missing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEFAULT_PATH", path)
    assert load(None) == Config()
    drop_in(path, "a.toml", "[policy]\nact = false\n")
    assert not load(None).policy.act, "its drop-ins count all the same"
    path.write_text("[policy]\nact = true\n")
    assert not load(None).policy.act
    path.write_text('[daemon]\nsocket = "/tmp/s"\n')
    assert load(None).daemon.socket == "/tmp/s"


def test_a_file_that_was_named_may_not_be_missing(path: Path) -> None:
    with pytest.raises(BadConfig) as caught:
        load(path)
    assert str(caught.value) == f"{path}: cannot be read: No such file or directory"


def test_all_keys(path: Path) -> None:
    path.write_text("""
[daemon]
socket = "/run/s"
state_directory = "/var/s"
admin_group = "wheel"
[sources]
kernel_log = "/tmp/kmsg"
[driver]
kind = "software"
path = "/tmp/d"
mode = "observe"
[mps]
control = "/opt/control"
pipe_directory = "/tmp/p"
log_directory = "/tmp/l"
[fence]
terminate_deadline_ms = 1
end_deadline_ms = 600000
grace_ms = 3
[policy]
act = false
[[tenant]]
name = "chat"
uid = 1000
on_fault = "note"
[[tenant]]
name = "embed"
""")
    found = load(path)
    assert (found.daemon.socket, found.daemon.state_directory, found.daemon.admin_group) == (
        "/run/s",
        "/var/s",
        "wheel",
    )
    assert (found.driver.kind, found.driver.path, found.driver.mode) == ("software", "/tmp/d", "observe")
    assert (found.fence.terminate_deadline_ms, found.fence.end_deadline_ms, found.fence.grace_ms) == (1, 600_000, 3)
    assert found.tenant == [TenantConfig("chat", 1000, "note"), TenantConfig("embed")]
    decisions = found.decisions()
    assert not decisions.act
    assert decisions.tenants == {"chat": TenantPolicy("note"), "embed": TenantPolicy("fence")}


def test_drop_ins_replace_single_keys_in_the_order_of_their_names(path: Path) -> None:
    path.write_text('[daemon]\nsocket = "/1"\nadmin_group = "main"\n[policy]\nact = false\n')
    drop_in(path, "20-b.toml", '[daemon]\nsocket = "/3"\n')
    drop_in(path, "10-a.toml", '[daemon]\nsocket = "/2"\nstate_directory = "/a"\n')
    drop_in(path, "30-c.conf", '[daemon]\nsocket = "/4"\n')
    found = load(path)
    assert (found.daemon.socket, found.daemon.state_directory, found.daemon.admin_group) == ("/3", "/a", "main")
    assert not found.policy.act


def test_a_drop_in_adds_tenants_and_replaces_them_whole(path: Path) -> None:
    path.write_text('[[tenant]]\nname = "chat"\nuid = 1\non_fault = "note"\n[[tenant]]\nname = "embed"\nuid = 2\n')
    drop_in(path, "a.toml", '[[tenant]]\nname = "chat"\n[[tenant]]\nname = "batch"\n')
    assert load(path).tenant == [TenantConfig("embed", 2), TenantConfig("chat"), TenantConfig("batch")]


MISTAKES = [
    ("[deamon]", "unknown table 'deamon'", "did you mean daemon?"),
    ("[cellar]", "unknown table 'cellar'", "known are: daemon, sources, driver"),
    ('[daemon]\nsockets = "/x"', "[daemon]: unknown key 'sockets'", "did you mean socket?"),
    ("[policy]\nzzz = 1", "[policy]: unknown key 'zzz'", "known are: act"),
    ("[daemon]\nsocket = 5", "[daemon] key socket: expected `str`, got `int`", "mpsafe.toml(5)"),
    ("[policy]\nact = 1", "[policy] key act: expected `bool`, got `int`", "mpsafe.toml(5)"),
    ('[policy]\nact = "no"', "[policy] key act: expected `bool`, got `str`", "mpsafe.toml(5)"),
    ("[fence]\ngrace_ms = 0", "[fence] key grace_ms: expected `int` >= 1", "mpsafe.toml(5)"),
    ("[fence]\ngrace_ms = 600001", "[fence] key grace_ms: expected `int` <= 600000", "mpsafe.toml(5)"),
    ("[fence]\ngrace_ms = 1.5", "[fence] key grace_ms: expected `int`, got `float`", "mpsafe.toml(5)"),
    ('[driver]\nkind = "patched"', "[driver] key kind: invalid enum value 'patched'", "mpsafe.toml(5)"),
    ('[driver]\nmode = "on"', "[driver] key mode: invalid enum value 'on'", "mpsafe.toml(5)"),
    ("daemon = 5", "key daemon: expected a table, got a number", "write [daemon]"),
    ('mps = "x"', "key mps: expected a table, got a text", "write [mps]"),
    ("policy = true", "key policy: expected a table, got a truth value", "write [policy]"),
    ("fence = []", "key fence: expected a table, got a list", "write [fence]"),
    ("sources = 2026-01-01", "key sources: expected a table, got a time", "write [sources]"),
    ('[tenant]\nname = "chat"', "key tenant: expected tables, got a table", "write [[tenant]]"),
    ("tenant = [1]", "key tenant: expected tables, got a list", "write [[tenant]]"),
    ("[[tenant]]\nuid = 1", "[[tenant]] number 1: object missing required field `name`", "mpsafe.toml(5)"),
    ('[[tenant]]\nname = "Chat"', "[[tenant]] number 1 key name: expected `str` matching regex", "mpsafe.toml(5)"),
    (f'[[tenant]]\nname = "{"c" * 32}"', "[[tenant]] number 1 key name: expected `str` matching", "mpsafe.toml(5)"),
    (
        '[[tenant]]\nname = "a"\n[[tenant]]\nname = "b"\nuid = -1',
        "[[tenant]] number 2 key uid: expected `int` >= 0",
        "",
    ),
    ('[[tenant]]\nname = "a"\nuser = 1', "[[tenant]] number 1: unknown key 'user'", "known are: name, uid, on_fault"),
    ('[[tenant]]\nname = "a"\n[[tenant]]\nname = "a"', "number 2: the name 'a' is taken already", "names are unique"),
    ("[daemon", "is not TOML", "https://toml.io"),
    ('[daemon]\nsocket = "a"\nsocket = "b"', "is not TOML", "https://toml.io"),
]


@pytest.mark.parametrize(("text", "problem", "advice"), MISTAKES)
@pytest.mark.parametrize("where", ["file", "drop-in"])
def test_a_mistake_is_named_with_file_table_key_and_a_way_out(
    path: Path, where: str, text: str, problem: str, advice: str
) -> None:
    path.write_text(text if where == "file" else "")
    drop_in(path, "a.toml", text if where == "drop-in" else "")
    with pytest.raises(BadConfig) as caught:
        load(path)
    wrong = path if where == "file" else path.with_name("mpsafe.toml.d") / "a.toml"
    assert str(caught.value).startswith(f"{wrong}")
    assert problem in str(caught.value)
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(path: Path) -> None:
    path.write_bytes(b'[daemon]\nsocket = "\xff"\n')
    with pytest.raises(BadConfig, match=r"byte 19: is not UTF-8; TOML files are"):
        load(path)


def test_a_file_that_cannot_be_read(path: Path) -> None:
    path.mkdir()
    with pytest.raises(BadConfig, match="cannot be read: Is a directory"):
        load(path)


values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.sampled_from(["software", "off", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "uid"]), inner, max_size=2),
    max_leaves=4,
)
names = [*Config.__dataclass_fields__, "other"]
keys = ["socket", "kernel_log", "kind", "mode", "control", "grace_ms", "act", "name", "uid", "on_fault", "other"]


@given(st.dictionaries(st.sampled_from(names), st.dictionaries(st.sampled_from(keys), values, max_size=3) | values))
def test_any_table_is_a_configuration_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, tables: dict[str, object]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text("\n".join(f"{name} = {_toml(value)}" for name, value in tables.items()))
    try:
        assert load(path)
    except BadConfig as error:
        assert os.fspath(path) in str(error)
        assert "is not TOML" not in str(error)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in members.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, cast("list[object]", value))) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
