# SPDX-License-Identifier: Apache-2.0
"""Serving mixture-of-experts models whose experts do not all fit on the device.

    trace.py       routing traces, read and written      record.py       made from a model
    policies/      who leaves, and what comes in ahead   maps.py         old tokens and the search for similar ones
    replay.py      a trace against a cache and a policy  simulation.py   many policies, as a table of figures

The simulator needs NumPy only; what serves a model needs the extra `experts` (torch, transformers).
"""
