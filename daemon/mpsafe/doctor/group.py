# SPDX-License-Identifier: Apache-2.0
"""The group whose members may act: whether there is one, and whether you are in it."""

from collections.abc import Iterator

from mpsafe.doctor.finding import Finding
from mpsafe.doctor.scene import ADMIN_GROUP, Scene

__all__ = ["group"]


def group(scene: Scene) -> Iterator[Finding]:
    """Without the group nobody but root may act."""
    if scene.admins is None:
        way_out = "make it with: systemd-sysusers; or name another group in mpsafe.toml(5), [daemon] admin_group"
        yield Finding("warning", f"there is no group {ADMIN_GROUP}: nobody but root may act", way_out)
    elif scene.uid == 0 or scene.admins in scene.groups:
        yield Finding("ok", "you may act: you are root" if scene.uid == 0 else f"you may act: you are in {ADMIN_GROUP}")
    else:
        way_out = f"usermod --append --groups {ADMIN_GROUP} NAME, and log in again"
        yield Finding("note", f"you are not in the group {ADMIN_GROUP}: you may read and not act", way_out)
