# SPDX-License-Identifier: Apache-2.0
"""The policies by name: who leaves a cache of experts, and what comes in ahead.

base.py        what a policy is told and asked
evictors.py    LRU, LFU, LFRU, ClassLRU, Least-Stale
requests.py    MoE-Infinity's activation matrices      gates.py   gate lookahead, a trained linear map
finemoe.py     the paper's                             ours.py    `mpsafe`, with estimator.py and governor.py
oracles.py     bounds that know the future
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, TypeAlias

from mpsafe.experts.policies.base import NOTHING, Flags, Pair, Policy, Routed, Shape, Step, Wishes
from mpsafe.experts.policies.evictors import ClassLru, LeastStale, Lfru, Lfu, Lru
from mpsafe.experts.policies.finemoe import FineMoe
from mpsafe.experts.policies.gates import Gate, Linear
from mpsafe.experts.policies.oracles import Belady, Prophet
from mpsafe.experts.policies.ours import Mpsafe
from mpsafe.experts.policies.requests import ActivationMatrices
from mpsafe.experts.trace import Trace

__all__ = [
    "NOTHING",
    "POLICIES",
    "Flags",
    "Known",
    "Need",
    "Oracle",
    "Policy",
    "Role",
    "Routed",
    "Shape",
    "Step",
    "Wishes",
]

Role: TypeAlias = Literal["ours", "ablation", "baseline", "bound"]
Need: TypeAlias = Literal["probabilities", "ahead", "embeddings", "training"]


@dataclass(frozen=True, slots=True)
class Known:
    """A policy, what it needs of a trace, and what it likes to have besides. `causal`: it does not know the future, so
    it could serve.

    `role`: ours, ours in part, or what it is compared with.
    """

    name: str
    about: str
    make: Callable[[Shape], Policy]
    needs: frozenset[Need] = frozenset()
    role: Role = "baseline"
    likes: frozenset[Need] = frozenset()
    causal: ClassVar[bool] = True

    def over(self, shape: Shape, trace: Trace) -> Policy:
        """The policy for a replay of that trace."""
        return self.make(shape)

    def lacks(self, trace: Trace, *, trained: bool) -> list[Need]:
        """What it needs, and this trace, or what it learns from, does not have."""
        return sorted(need for need in self.needs if not (trained if need == "training" else has(trace, need)))


@dataclass(frozen=True, slots=True)
class Oracle:
    """A bound: a policy that knows the trace which it is replayed over."""

    name: str
    about: str
    over: Callable[[Shape, Trace], Policy]
    role: ClassVar[Role] = "bound"
    causal: ClassVar[bool] = False

    def lacks(self, trace: Trace, *, trained: bool) -> list[Need]:
        """Nothing."""
        return []


def has(trace: Trace, need: Need) -> bool:
    """Whether that was recorded."""
    return need != "training" and getattr(trace, need) is not None


def _joint(shape: Shape, trace: Trace) -> Policy:
    prophet = Prophet(shape, trace)
    return Pair(Belady(shape, trace), prophet, prophet.worth)


_MAPS: Final = frozenset[Need](("probabilities", "embeddings"))
_TRAINED: Final = frozenset[Need](("probabilities", "training"))
_AHEAD: Final = frozenset[Need](("ahead",))

POLICIES: Final[tuple[Known | Oracle, ...]] = (
    Known("lru", "least recently used", lambda shape: Pair(Lru(shape))),
    Known("lfu", "least frequently used", lambda shape: Pair(Lfu(shape))),
    Known("lfru", "frequency over age", lambda shape: Pair(Lfru(shape))),
    Known("class-lru", "LRU within classes of decayed frequency", lambda shape: Pair(ClassLru(shape))),
    Known("least-stale", "unused in this step first", lambda shape: Pair(LeastStale(shape))),
    Known(
        "eam",
        "MoE-Infinity: activation matrix of the nearest request, LFU",
        lambda shape: Pair(Lfu(shape), ActivationMatrices(shape)),
    ),
    Known(
        "eam-mpsafe",
        "the same with our evictor",
        lambda shape: Pair(Mpsafe(shape, maps=False), ActivationMatrices(shape)),
        likes=_AHEAD,
    ),
    Known("gate-1", "gate lookahead, 1 layer, LRU", lambda s: Pair(Lru(s), Gate(s, distance=1)), _AHEAD),
    Known("gate-2", "gate lookahead, 2 layers, LRU", lambda s: Pair(Lru(s), Gate(s, distance=2)), _AHEAD),
    Known("gate-3", "gate lookahead, 3 layers, LRU", lambda s: Pair(Lru(s), Gate(s, distance=3)), _AHEAD),
    Known(
        "gate-1-mpsafe",
        "gate lookahead, 1 layer, our evictor",
        lambda shape: Pair(Mpsafe(shape, maps=False), Gate(shape, distance=1)),
        _AHEAD,
        "ablation",
    ),
    Known(
        "linear",
        "a trained linear predictor, 1 layer, LRU",
        lambda shape: Pair(Lru(shape), Linear(shape, distance=1)),
        _TRAINED,
        likes=_AHEAD,
    ),
    Known(
        "linear-mpsafe",
        "a trained linear predictor, 1 layer, our evictor",
        lambda shape: Pair(Mpsafe(shape, maps=False), Linear(shape, distance=1)),
        _TRAINED,
        "ablation",
        likes=_AHEAD,
    ),
    Known("finemoe", "the paper's, 3 layers ahead", lambda shape: FineMoe(shape, distance=3), _MAPS),
    Known("finemoe-2", "the paper's, 2 layers ahead", lambda shape: FineMoe(shape, distance=2), _MAPS),
    Known("finemoe-1", "the paper's, 1 layer ahead", lambda shape: FineMoe(shape, distance=1), _MAPS),
    Known("mpsafe", "ours", lambda shape: Mpsafe(shape), role="ours", likes=_AHEAD),
    Known(
        "mpsafe-no-maps",
        "ours, without looking for similar tokens",
        lambda shape: Mpsafe(shape, maps=False),
        role="ablation",
        likes=_AHEAD,
    ),
    Oracle(
        "oracle",
        "knows what the next two layers ask for, LRU",
        lambda shape, trace: Pair(Lru(shape), Prophet(shape, trace)),
    ),
    Oracle("belady", "who is asked for last leaves", lambda shape, trace: Pair(Belady(shape, trace))),
    Oracle("joint-oracle", "both", _joint),
)
