# SPDX-License-Identifier: Apache-2.0
"""Operator-level autoscaling: how many of which operator a load needs, planned by queueing theory.

After "From Models to Operators" (arXiv 2511.02248) and OpScale (arXiv 2608.13499). A model is cut into stages; each
stage is a pool of equal workers; a plan says how many, how large, and where.
"""
