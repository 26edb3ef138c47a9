# SPDX-License-Identifier: Apache-2.0
"""The arena: routers of language models, graded and scored as RouterArena does (arXiv 2510.00202), and beyond it.

Offline it needs neither a GPU nor mpsafed: files in, figures and a board out. Where the published text and the
published code disagree, the code's behaviour is what is here, under the version of the rules that it belongs to.
"""
