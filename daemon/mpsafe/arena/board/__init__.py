# SPDX-License-Identifier: Apache-2.0
"""A board: a directory of inputs, and three files that follow from them and from nothing else."""
