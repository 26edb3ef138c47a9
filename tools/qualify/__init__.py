# SPDX-License-Identifier: Apache-2.0
"""The questions that only a real GPU answers, each asked in processes of its own and with a deadline.

    python -m tools.qualify [--list] [--only NAME] [--resume] [--software]

    probes/        the questions, one kind a file
    stage.py       what a probe has in hand: processes, the kernel log, a private MPS
    actor.py       a process that does CUDA work, and faults, as it is told
    finding.py     what came out, as it is written to results/
    page.py        the same as one HTML page

Needs Python 3.11, cffi and typing_extensions; pynvml and rich are used where they are.
"""
