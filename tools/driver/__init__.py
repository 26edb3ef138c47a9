# SPDX-License-Identifier: Apache-2.0
"""python -m tools.driver: patches and compiles nvidia-uvm of many driver versions, and says what came of each.

All that it makes is in build/driver: per version the patched tree, where `make` finds what did not change, and
`compiled.json`; of all together `support.json`.
"""
