# SPDX-License-Identifier: Apache-2.0
"""The daemon: privileged, restartable at any instant, imported by nobody.

Read, decide, act are three places: `sources` read, `fuse` and `policy` decide and do no I/O,
`fence` and `restart` act. `engine` carries a signal from one to the next, `state` remembers.
"""
