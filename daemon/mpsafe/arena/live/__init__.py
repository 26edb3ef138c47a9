# SPDX-License-Identifier: Apache-2.0
"""Routers judged on a live host, under faults, each beside its twin that does not look at the host.

model.py    one served model: a real decoder, a process of its own, a tenant of mpsafed
host.py     the host: a device, MPS, mpsafed, the models, and what is true of them
plan.py     which fault when
faults.py   carries a plan out
state.py    what a router may know: mpsafed's status page, and what it has asked itself
runner.py   one run: the same queries at the same times for every router
session.py  a router and its twin, without and with faults
record.py   a run as files, and back
figures.py  what a run is worth
page.py     the page
"""
