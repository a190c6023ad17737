"""The whole path once, as one resumable pipeline, with a report of what changed."""

from slipway.demo.options import DemoOptions, default_data
from slipway.demo.plan import build_pipeline, run_demo

__all__ = ["DemoOptions", "build_pipeline", "default_data", "run_demo"]
