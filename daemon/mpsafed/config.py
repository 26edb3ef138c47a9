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
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar, cast

import msgspec

from mpsafe.errors import BadConfig
from mpsafe.model import Limits
from mpsafed.declared import Declared
from mpsafed.driver import Mode
from mpsafed.driver import Policy as DriverPolicy
from mpsafed.leases.leases import LeaseRules
from mpsafed.policy import Policy, TenantPolicy
from mpsafed.vault.vault import Quota

__all__ = ["DEFAULT_PATH", "Config", "LimitsConfig", "TenantConfig", "load"]

DEFAULT_PATH: Final = Path("/etc/mpsafe/mpsafe.toml")

T = TypeVar("T")

Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_-]{1,31}$")]
Milliseconds: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=600_000)]
Uid: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFE)]
Percentage: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=100)]
Mebibytes: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
Ordinal: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^([0-9]|[12][0-9]|3[01]|all)$")]
CgroupPath: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^(/[^/]+)+$")]


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
    nvml_events: bool = True
    process_events: bool = True
    device_events: bool = True


@dataclass(frozen=True, slots=True)
class DriverConfig:
    """[driver]. `hold_ms`: how long the end of a doomed client that was not proven stopped is kept back."""

    kind: Literal["none", "uvm", "software"] = "none"
    path: str = "/dev/mpsafe"
    mode: Mode = "absorb"
    sinks_max: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1024
    hold_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 2000
    kill_ms: Annotated[int, msgspec.Meta(ge=0, le=600_000)] = 0

    def policy(self) -> DriverPolicy:
        """What the driver is told."""
        return DriverPolicy(mode=self.mode, sinks_max=self.sinks_max, hold_ms=self.hold_ms, kill_ms=self.kill_ms)


@dataclass(frozen=True, slots=True)
class Mps:
    """[mps]. `mode`: a control daemon for each user that a tenant names, one for all, or one that is there."""

    control: str = "nvidia-cuda-mps-control"
    mode: Literal["each-user", "shared", "adopt"] = "each-user"
    start: Literal["systemd", "session"] = "systemd"
    protocol: Literal[2, 3] = 2
    pipe_directory: str = "/run/mpsafe-mps"
    log_directory: str = "/var/log/mpsafe-mps"


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """[[limits]]. `uid`: of whose control daemon; of every one where it is left out."""

    uid: Uid | None = None
    active_thread_percentage: Percentage | None = None
    client_priority: Literal[0, 1] | None = None
    pinned_mib: dict[Ordinal, Mebibytes] = field(default_factory=lambda: dict[str, int]())


@dataclass(frozen=True, slots=True)
class FenceConfig:
    """[fence]"""

    terminate_deadline_ms: Milliseconds = 2000
    end_deadline_ms: Milliseconds = 2000
    grace_ms: Milliseconds = 200


@dataclass(frozen=True, slots=True)
class TakeoverConfig:
    """[takeover]. How long a promoted standby may take to say that it knows, and that it serves."""

    received_ms: Milliseconds = 1000
    serving_ms: Milliseconds = 30_000


@dataclass(frozen=True, slots=True)
class VaultConfig:
    """[vault]. `handles`: of all tenants. `keeper`: the socket of the process that holds them without systemd."""

    handles: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 2048
    keeper: str = "/run/mpsafe/keeper"


@dataclass(frozen=True, slots=True)
class LeasesConfig:
    """[leases]. `reserve_mib`: of each device, for nobody. `ttl_ms`: how long a lease is good for that is not renewed.

    `pressure_ms`: how long a holder has to free memory. `look_ms`: how often NVML is asked while there are leases.
    `settle_ms`: how long there has to be no pressure before leases grow. `link_mib_s`: what a device's link can do.
    """

    reserve_mib: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 512
    ttl_ms: Annotated[int, msgspec.Meta(ge=500, le=3_600_000)] = 10_000
    pressure_ms: Milliseconds = 50
    look_ms: Annotated[int, msgspec.Meta(ge=10, le=60_000)] = 50
    settle_ms: Annotated[int, msgspec.Meta(ge=0, le=600_000)] = 1000
    link_mib_s: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)] = 16_384

    def rules(self) -> LeaseRules:
        """What the leases are kept by."""
        return LeaseRules(
            reserve_bytes=self.reserve_mib << 20,
            ttl_s=self.ttl_ms / 1000,
            pressure_s=self.pressure_ms / 1000,
            look_s=self.look_ms / 1000,
            settle_s=self.settle_ms / 1000,
        )


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """[store]. `grace_ms`: how long a content is kept that nobody uses. `shared`: all users are one."""

    grace_ms: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] = 60_000
    shared: bool = False


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """[policy]"""

    act: bool = True


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """[metrics]. `listen`: a path, or 127.0.0.1:PORT or [::1]:PORT; nowhere where it is empty."""

    listen: Annotated[str, msgspec.Meta(pattern=r"^(|/.+|(127\.0\.0\.1|\[::1\]):[0-9]{1,5})$")] = ""


@dataclass(frozen=True, slots=True)
class TenantConfig:
    """[[tenant]]. `uid`: who may attach for it; anybody where it is left out. `cgroup`: its own, to be frozen.

    `vault_bytes` and `vault_handles`: what it may hold in the vault. `readers`: who may read its immutable regions.
    `store_bytes`: what it may keep in the store.

    `standby`: whether systemd is to keep one. `after_takeover`: whether its process stays outside MPS.
    """

    name: Name
    uid: Uid | None = None
    on_fault: Literal["fence", "note"] = "fence"
    cgroup: CgroupPath | None = None
    vault_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    vault_handles: Annotated[int, msgspec.Meta(ge=0, le=65_536)] = 256
    readers: list[Name] = field(default_factory=lambda: list[str]())
    store_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    standby: Literal["own", "systemd"] = "own"
    after_takeover: Literal["stay", "return"] = "stay"


@dataclass(frozen=True, slots=True)
class Config:
    """All of it."""

    daemon: Daemon = field(default_factory=Daemon)
    sources: Sources = field(default_factory=Sources)
    driver: DriverConfig = field(default_factory=DriverConfig)
    mps: Mps = field(default_factory=Mps)
    fence: FenceConfig = field(default_factory=FenceConfig)
    takeover: TakeoverConfig = field(default_factory=TakeoverConfig)
    vault: VaultConfig = field(default_factory=VaultConfig)
    leases: LeasesConfig = field(default_factory=LeasesConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    limits: list[LimitsConfig] = field(default_factory=lambda: list[LimitsConfig]())
    tenant: list[TenantConfig] = field(default_factory=lambda: list[TenantConfig]())

    def decisions(self) -> Policy:
        """What `policy.decide` wants to know."""
        return Policy(self.policy.act, {tenant.name: TenantPolicy(tenant.on_fault) for tenant in self.tenant})

    def quotas(self) -> dict[str, Quota]:
        """What each tenant may hold in the vault, and who may read there."""
        return {one.name: Quota(one.vault_bytes, one.vault_handles, frozenset(one.readers)) for one in self.tenant}

    def control_daemons(self) -> list[Declared]:
        """The MPS control daemons that the configuration leads to."""
        match self.mps.mode:
            case "adopt":
                return [self._control_daemon("default", None)]
            case "shared":
                return [self._control_daemon("shared", None)]
            case "each-user":
                uids = sorted({tenant.uid for tenant in self.tenant if tenant.uid is not None})
                return [self._control_daemon(f"uid-{uid}", uid) for uid in uids]

    def _control_daemon(self, name: str, uid: int | None) -> Declared:
        pipes, logs = Path(self.mps.pipe_directory), Path(self.mps.log_directory)
        adopted = self.mps.mode == "adopt"
        return Declared(
            name=name,
            uid=uid,
            program=self.mps.control,
            pipe_directory=pipes if adopted else pipes / str(uid or 0),
            log_directory=logs if adopted else logs / str(uid or 0),
            how="adopt" if adopted else self.mps.start,
            protocol=self.mps.protocol,
            limits=self._limits(uid),
        )

    def _limits(self, uid: int | None) -> Limits:
        """Those for every control daemon, and over them those for this one."""
        limits = Limits()
        for one in sorted((one for one in self.limits if one.uid in (None, uid)), key=lambda one: one.uid is not None):
            limits = Limits(
                limits.active_thread_percentage
                if one.active_thread_percentage is None
                else one.active_thread_percentage,
                limits.client_priority if one.client_priority is None else one.client_priority,
                limits.pinned_mib | one.pinned_mib,
            )
        return limits


_TABLES: Final[dict[str, type[Any]]] = {
    "daemon": Daemon,
    "sources": Sources,
    "driver": DriverConfig,
    "mps": Mps,
    "fence": FenceConfig,
    "takeover": TakeoverConfig,
    "vault": VaultConfig,
    "leases": LeasesConfig,
    "store": StoreConfig,
    "policy": PolicyConfig,
    "metrics": MetricsConfig,
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
            config = replace(config, tenant=_tables(path, table, value, TenantConfig, "name", config.tenant))
            continue
        if table == "limits":
            config = replace(config, limits=_tables(path, table, value, LimitsConfig, "uid", config.limits))
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


def _tables(path: Path, name: str, value: object, kind: type[T], key: str, old: list[T]) -> list[T]:
    """Those of earlier files, then the [[name]] of this one; each `key` is there once, and a new one replaces."""
    tables = _as(list[dict[str, Any]], value)
    if tables is None:
        raise BadConfig(str(path), f"key {name}", f"expected tables, got {_kind(value)}", f"write [[{name}]]")
    found: dict[object, T] = {}
    for number, table in enumerate(tables, 1):
        place = f"[[{name}]] number {number}"
        _check_names(path, place, table, [f.name for f in fields(cast("Any", kind))])
        one = _converted(path, place, table, kind)
        if (of := getattr(one, key)) in found:
            raise BadConfig(str(path), place, f"the {key} {of!r} is taken already", f"{key}s are unique")
        found[of] = one
    return [*(one for one in old if getattr(one, key) not in found), *found.values()]


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
