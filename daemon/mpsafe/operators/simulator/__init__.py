# SPDX-License-Identifier: Apache-2.0
"""A fleet that serves a trace, request by request: pools of workers, batches as events, and what a controller starts
and stops meanwhile.

Aggregated as the planner's model is: an iteration visits a stage once, for the time of all layers. Everything is
deterministic: equal times are taken in the order in which they were foreseen.
"""
