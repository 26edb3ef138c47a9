# SPDX-License-Identifier: Apache-2.0
"""How a model is cut into stages, coarse to fine. A stage's name says which operators of which phases it is."""

from collections.abc import Sequence
from typing import Final, TypeAlias

from mpsafe.operators.model import Granularity, Phase, Stage
from mpsafe.operators.specs import Spec

__all__ = ["Groups", "cut", "groups", "stage", "stages"]

Groups: TypeAlias = tuple[tuple[str, ...], ...]
PHASES: Final[tuple[Phase, ...]] = ("prefill", "decode")
_ATTENTION: Final = ("qkv", "attention", "o")
_ONCE: Final = ("embed", "lm_head")  # outside the layers
_CONTEXT: Final = "attention"  # the operator that holds the cache


def groups(spec: Spec, granularity: Granularity) -> Groups:
    """Which operators are together, in each phase."""
    names = tuple(operator.name for operator in spec.operators)
    if granularity == "operator":
        return tuple((name,) for name in names)
    if granularity == "attn-ffn":
        return _ATTENTION, tuple(name for name in names if name not in _ATTENTION)
    return (names,)


def stages(spec: Spec, granularity: Granularity) -> tuple[Stage, ...]:
    """In the order in which a request first visits them, prefill before decode."""
    if granularity == "model":
        return (_stage(spec, "model", groups(spec, "model")[0], PHASES),)
    return cut(spec, groups(spec, granularity), groups(spec, granularity))


def cut(spec: Spec, prefill: Groups, decode: Groups) -> tuple[Stage, ...]:
    """The stages of any grouping of the operators in each phase."""
    found: list[Stage] = []
    for phase, grouping in zip(PHASES, (prefill, decode), strict=True):
        found += [_stage(spec, _name(spec, group, phase), group, (phase,)) for group in grouping]
    return tuple(found)


def stage(spec: Spec, name: str) -> Stage:
    """The stage of that name, as a plan has it. Raises KeyError."""
    base, _, phase = name.rpartition(".")
    for known in PHASES:
        if name == known:
            return _stage(spec, name, groups(spec, "pd")[0], (known,))
        if phase == known:
            attention, rest = groups(spec, "attn-ffn")
            members = {"attn": attention, "ffn": rest}.get(base, tuple(base.split("+")))
            return _stage(spec, name, members, (known,))
    if name == "model":
        return stages(spec, "model")[0]
    raise KeyError(name)


def _name(spec: Spec, group: Sequence[str], phase: Phase) -> str:
    attention, rest = groups(spec, "attn-ffn")
    if tuple(group) == groups(spec, "pd")[0]:
        return phase
    if tuple(group) == attention:
        return f"attn.{phase}"
    return f"ffn.{phase}" if tuple(group) == rest else f"{'+'.join(group)}.{phase}"


def _stage(spec: Spec, name: str, members: tuple[str, ...], phases: tuple[Phase, ...]) -> Stage:
    operators = [spec.operator(member) for member in members]
    layer = [operator for operator in spec.operators if operator.name not in _ONCE]
    hops, handed = 0, 0.0
    # The walk of one iteration: embed, every layer's operators in a ring, lm_head; a hop is where the stage is left.
    ring = list(zip(layer, [*layer[1:], layer[0]], strict=True))
    first, last = spec.operators[0], spec.operators[-1]
    steps = [(first, layer[0], 1), *[(one, other, spec.layers) for one, other in ring[:-1]]]
    steps += [(*ring[-1], spec.layers - 1), (layer[-1], last, 1)]
    for one, other, times in steps:
        if one.name in members and other.name not in members:
            hops += times
            handed += times * one.out_bytes
    if last.name in members and len(members) < len(spec.operators):
        hops, handed = hops + 1, handed + last.out_bytes
    twice = spec.weight_bytes(first) if spec.tied and {first.name, last.name} <= set(members) else 0.0
    return Stage(
        name=name,
        operators=members,
        phases=phases,
        weight_bytes=sum(spec.weight_bytes(operator) for operator in operators) - twice,
        kv_bytes_per_token=spec.kv_bytes_per_token if _CONTEXT in members else 0.0,
        out_bytes_per_token=spec.kv_bytes_per_token if name == "prefill" else handed,
        hops=1 if name == "prefill" else hops,
    )
