# SPDX-License-Identifier: Apache-2.0
"""The configuration: one TOML file and drop-ins beside it, each checked by itself, then laid over another.

/etc/mpsafe/mpsafe.toml, then /etc/mpsafe/mpsafe.toml.d/*.toml in the order of their names. A later
file replaces single keys; tenants are added, or replaced whole by name. An error names the file,
the table, the key and what would be right.
"""

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from mpsafe.errors import BadConfig
from mpsafed.driver import Mode
from mpsafed.policy import Policy, TenantPolicy

__all__ = ["DEFAULT_PATH", "Config", "TenantConfig", "load"]

DEFAULT_PATH: Final = Path("/etc/mpsafe/mpsafe.toml")

T = TypeVar("T")

Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_-]{1,31}$")]
Milliseconds: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=600_000)]
Uid: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFE)]


@dataclass(frozen=True, slots=True)
class Daemon:
    """[daemon]"""

    socket: str = "/run/mpsafe/mpsafe.varlink"
    state_directory: str = "/var/lib/mpsafe"
    admin_group: str = "mpsafe-admin"


@dataclass(frozen=True, slots=True)
class Sources:
    """[sources]"""

    kernel_log: str = "/dev/kmsg"


@dataclass(frozen=True, slots=True)
class DriverConfig:
    """[driver]"""

    kind: Literal["none", "software"] = "none"
    path: str = "/dev/mpsafe"
    mode: Mode = "absorb"


@dataclass(frozen=True, slots=True)
class Mps:
    """[mps]"""

    control: str = "nvidia-cuda-mps-control"
    pipe_directory: str = "/tmp/nvidia-mps"
    log_directory: str = "/var/log/nvidia-mps"


@dataclass(frozen=True, slots=True)
class FenceConfig:
    """[fence]"""

    terminate_deadline_ms: Milliseconds = 2000
    end_deadline_ms: Milliseconds = 2000
    grace_ms: Milliseconds = 200


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """[policy]"""

    act: bool = True


@dataclass(frozen=True, slots=True)
class TenantConfig:
    """[[tenant]]. `uid`: who may attach for it; anybody where it is left out."""

    name: Name
    uid: Uid | None = None
    on_fault: Literal["fence", "note"] = "fence"


@dataclass(frozen=True, slots=True)
class Config:
    """All of it."""

    daemon: Daemon = field(default_factory=Daemon)
    sources: Sources = field(default_factory=Sources)
    driver: DriverConfig = field(default_factory=DriverConfig)
    mps: Mps = field(default_factory=Mps)
    fence: FenceConfig = field(default_factory=FenceConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    tenant: list[TenantConfig] = field(default_factory=lambda: list[TenantConfig]())

    def decisions(self) -> Policy:
        """What `policy.decide` wants to know."""
        return Policy(self.policy.act, {tenant.name: TenantPolicy(tenant.on_fault) for tenant in self.tenant})


_TABLES: Final[dict[str, type[Any]]] = {
    "daemon": Daemon,
    "sources": Sources,
    "driver": DriverConfig,
    "mps": Mps,
    "fence": FenceConfig,
    "policy": PolicyConfig,
}


def load(path: Path | None) -> Config:
    """Reads the file and its drop-ins. Without `path` the default one, which may be missing."""
    main = path or DEFAULT_PATH
    config = Config()
    if path is not None or main.exists():
        config = _overlaid(config, main)
    for drop_in in sorted(main.with_name(main.name + ".d").glob("*.toml")):
        config = _overlaid(config, drop_in)
    return config


def _overlaid(config: Config, path: Path) -> Config:
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise BadConfig(str(path), "", f"cannot be read: {error.strerror}", "") from error
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(str(path), "", f"is not TOML: {error}", "see https://toml.io") from error
    except UnicodeDecodeError as error:
        raise BadConfig(str(path), f"byte {error.start}", "is not UTF-8", "TOML files are") from error
    _check_names(path, "", tables, [f.name for f in fields(Config)])
    for table, value in tables.items():
        if table == "tenant":
            config = _with_tenants(config, path, value)
            continue
        current: object = getattr(config, table)
        keys = _as(dict[str, Any], value)
        if keys is None:
            raise BadConfig(str(path), f"key {table}", f"expected a table, got {_kind(value)}", f"write [{table}]")
        names = [f.name for f in fields(_TABLES[table])]
        _check_names(path, f"[{table}]", keys, names)
        whole = {name: getattr(current, name) for name in names} | keys
        config = replace(config, **{table: _converted(path, f"[{table}]", whole, _TABLES[table])})
    return config


def _with_tenants(config: Config, path: Path, value: object) -> Config:
    tables = _as(list[dict[str, Any]], value)
    if tables is None:
        raise BadConfig(str(path), "key tenant", f"expected tables, got {_kind(value)}", "write [[tenant]]")
    found: dict[str, TenantConfig] = {}
    for number, table in enumerate(tables, 1):
        place = f"[[tenant]] number {number}"
        _check_names(path, place, table, [f.name for f in fields(TenantConfig)])
        tenant = _converted(path, place, table, TenantConfig)
        if tenant.name in found:
            raise BadConfig(str(path), place, f"the name {tenant.name!r} is taken already", "names are unique")
        found[tenant.name] = tenant
    kept = [tenant for tenant in config.tenant if tenant.name not in found]
    return replace(config, tenant=[*kept, *found.values()])


def _as(kind: type[T], value: object) -> T | None:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None


def _check_names(path: Path, place: str, table: dict[str, Any], known: Iterable[str]) -> None:
    known = list(known)
    for name in table:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            advice = f"did you mean {close[0]}?" if close else f"known are: {', '.join(known)}"
            what = "key" if place else "table"
            raise BadConfig(str(path), place, f"unknown {what} {name!r}", advice)


def _converted(path: Path, place: str, table: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$.")
        key = where.rstrip("`")
        at = f"{place} key {key}" if key else place
        raise BadConfig(str(path), at, _plain(problem), "see mpsafe.toml(5)") from error


def _plain(problem: str) -> str:
    return problem[:1].lower() + problem[1:]


def _kind(value: object) -> str:
    match value:
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a time"
