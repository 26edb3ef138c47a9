# SPDX-License-Identifier: Apache-2.0
"""A small mixture-of-experts model, trained here on text that is on every machine that can train it.

text.py    documents: Python's own modules and manual, and the sources of installed packages; split by document
train.py   python -m tools.moe.train DIRECTORY: tokenizer, model, losses
"""
