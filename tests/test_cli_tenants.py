# SPDX-License-Identifier: Apache-2.0
"""This test will show the tenants as the status page has them, with figures and without."""

from collections.abc import Callable

import msgspec

from command import mpsafe, printed
from daemon_process import TENANTS, Mpsafed
from mpsafe.cli.options import console
from mpsafe.cli.tenants import TenantLine, tenant_table
from requires import requires
from tenant_process import Tenant


@requires("soft")
def test_the_page_is_shown(mpsafed: Mpsafed, tenant: Callable[..., Tenant]) -> None:
    tenant("chat", mpsafed.socket)
    found = printed("tenants", "--socket", mpsafed.socket)
    assert found["shape"] == "mpsafe.tenants/1"
    lines = msgspec.convert(found["tenants"], list[TenantLine])
    assert [line.name for line in lines] == list(TENANTS)
    assert lines[0] == TenantLine("chat", None, "healthy", 1, 1, 0, 0, 0, 0)
    assert {line.health for line in lines[1:]} == {"absent"}
    heading, _, chat, *_ = [line.split() for line in mpsafe("tenants", "--socket", mpsafed.socket).splitlines() if line]
    assert heading[:5] == ["tenant", "user", "health", "gen", "procs"]
    assert chat == ["chat", "any", "healthy", "1", "1"]


def test_figures_have_their_units_and_fit_80_columns() -> None:
    out = console()
    out.width = 80
    with out.capture() as capture:
        out.print(tenant_table("", [TenantLine("a" * 16, 1001, "healthy", 3, 2, 17, 4, 1_250_000, 3 << 30)]))
    line = capture.get().splitlines()[-1]
    assert line.split() == ["a" * 16, "1001", "healthy", "3", "2", "17", "4", "1.2", "ms", "3.0", "GiB"]
