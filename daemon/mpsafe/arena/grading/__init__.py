# SPDX-License-Identifier: Apache-2.0
"""The deterministic graders of RouterArena's dataset families: one file a kind, `families.py` says which is whose."""
