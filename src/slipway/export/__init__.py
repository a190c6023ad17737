"""From a training run to files that an engine loads: merge, convert, quantise, compare.

Everything heavy (torch, transformers) is imported inside the functions.
"""

from __future__ import annotations
