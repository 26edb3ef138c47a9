# SPDX-License-Identifier: Apache-2.0
"""Tables of measured operators, as four projects publish them, behind one interface."""

from mpsafe.operators.profiles.opening import open_profile
from mpsafe.operators.profiles.profile import Notes, Profile

__all__ = ["Notes", "Profile", "open_profile"]
