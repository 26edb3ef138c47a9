# SPDX-License-Identifier: Apache-2.0
"""This test will report as the processes of a tenant do."""

from mpsafe.model import Figures, Identity
from mpsafed.reports import Reports

ONE, OTHER = Identity(11, 110), Identity(12, 120)


def test_a_tenant_is_the_sum_of_its_processes_and_as_slow_as_the_slowest() -> None:
    reports = Reports()
    reports.put(ONE, Figures(queue=1, in_flight=2, latency_ns=3, resident_bytes=4))
    reports.put(ONE, Figures(queue=10, in_flight=20, latency_ns=30, resident_bytes=40))
    reports.put(OTHER, Figures(queue=1, in_flight=1, latency_ns=99, resident_bytes=1))
    assert reports.of([ONE, OTHER, Identity(13, 130)]) == Figures(11, 21, 99, 41)
    reports.forget(ONE)
    reports.forget(ONE)
    assert reports.of([ONE, OTHER]) == Figures(1, 1, 99, 1)


def test_what_a_report_leaves_out_stays() -> None:
    reports = Reports()
    reports.put(ONE, Figures(queue=7, latency_ns=3))
    reports.put(ONE, Figures(in_flight=2, latency_ns=0))
    assert reports.of([ONE]) == Figures(7, 2, 0, 0)


def test_who_reports_nothing_counts_as_nothing() -> None:
    assert Reports().of([ONE]) == Figures(0, 0, 0, 0)
