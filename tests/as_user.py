# SPDX-License-Identifier: Apache-2.0
"""Connecting as another user, for tests that run as root: SO_PEERCRED is taken when a socket connects."""

import os
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["as_user"]


@contextmanager
def as_user(uid: int, *, groups: tuple[int, ...] = ()) -> Generator[None]:
    """Inside, this process has that effective uid and those groups only."""
    before, gid = os.getgroups(), os.getegid()
    os.setgroups(groups)
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(os.getuid())
        os.setegid(gid)
        os.setgroups(before)
