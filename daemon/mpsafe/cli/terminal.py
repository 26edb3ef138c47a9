# SPDX-License-Identifier: Apache-2.0
"""What others named, made safe for a terminal; without rich, which takes longer to import than to ask."""

__all__ = ["printable"]


def printable(text: str) -> str:
    """Names come from the process that they name: what would steer a terminal is replaced."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
