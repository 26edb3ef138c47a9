# SPDX-License-Identifier: Apache-2.0
"""This test will kill real control daemons and look at what they leave, and at what a new one changes."""

import os

from control_daemon import declared, kill_mps
from doctor_scene import cuda_program, lines, scene
from mpsafe.doctor.finding import Finding
from mpsafe.doctor.leftovers import leftovers
from mpsafe.doctor.told import Told
from mpsafe.soft.host import SoftwareHost
from requires import requires

pytestmark = requires("soft")


def about(host: SoftwareHost) -> list[Finding]:
    """What is left in this host's directory; other hosts of this machine are not ours."""
    directory = os.fspath(host.pipe_directory)
    found = leftovers(scene(Told(controls=[declared(host.pipe_directory)])))
    return [finding for finding in found if finding.path == directory]


def test_a_host_that_is_well_has_none(software_host: SoftwareHost) -> None:
    with cuda_program(software_host.environment):
        assert software_host.control("get_server_list")
        assert about(software_host) == []


def test_a_killed_control_daemon_leaves_a_server_a_socket_and_a_pid_file(software_host: SoftwareHost) -> None:
    with cuda_program(software_host.environment) as client:
        server = int(software_host.control("get_server_list"))
        pid = kill_mps(software_host)
        assert lines(about(software_host)) == [
            f"wrong: MPS server {server} (uid {os.geteuid()}) serves on, and its control daemon is dead",
            f"note: nobody listens on the socket {software_host.pipe_directory}/control: its control daemon has ended",
            f"warning: {software_host.pipe_directory}/nvidia-cuda-mps-control.pid names process {pid}, which does not "
            "listen: it was killed",
        ]
        assert about(software_host)[0].pid == server
        assert client.poll() is None, "looking harms nobody"
        software_host.start_mps()
        (stale,) = about(software_host)
        assert (stale.severity, stale.pid) == ("wrong", server), "the new one does not know the old one's server"
    software_host.stop_mps()


def test_one_that_was_stopped_leaves_its_socket(software_host: SoftwareHost) -> None:
    software_host.stop_mps()
    assert [finding.severity for finding in about(software_host)] == ["note"]
