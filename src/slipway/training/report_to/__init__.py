"""Other places that get a run's metrics: TensorBoard files, SwanLab, W&B. Loaded when asked for."""

from slipway.training.report_to.base import Sink, numbers_of, open_sinks

__all__ = ["Sink", "numbers_of", "open_sinks"]
