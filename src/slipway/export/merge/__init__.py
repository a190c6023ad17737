"""Adapters into their base: one tensor at a time, proved equal to base + adapters."""

from slipway.export.merge.proof import TOLERANCE_KL
from slipway.export.merge.run import merge_adapters, merge_run
from slipway.export.merge.sources import Source, find_base, open_source

__all__ = ["TOLERANCE_KL", "Source", "find_base", "merge_adapters", "merge_run", "open_source"]
