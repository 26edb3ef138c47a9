# SPDX-License-Identifier: Apache-2.0
"""The demo: three tenants on one device, one fault, with stock MPS and with mpsafe.

tenant.py      the tenants' program: requests in, checked answers out, and two bugs
supervisor.py  starts a tenant again when it has ended, as systemd's Restart=always would
traffic.py     asks, checks the answers, writes down how each request went
hosts.py       the software GPU, or the real one
daemon.py      mpsafed beside it
scenario.py    one run: start, healthy traffic, the fault, what became of everybody
decoder.py     a small transformer over mpsafe's own kernels
serving.py     it as a service, with its weights and its cache in the vault
asker.py       who asks it, and loses no token
takeover.py    the last act: a restart beside a standby
report.py      the table and the timeline pictures
"""
