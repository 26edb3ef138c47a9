# SPDX-License-Identifier: Apache-2.0
"""From a load and a promise to a plan: candidates for each phase, greedy with repair, packed onto GPUs."""

from mpsafe.operators.planner.planning import WHOLE, most, plan

__all__ = ["WHOLE", "most", "plan"]
