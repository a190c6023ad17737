"""What fits into a memory: models by their shape, training by method, inference by precision."""

from slipway.training.fit.advise import Answer, Machine, Need, ask, overview
from slipway.training.fit.catalogue import Known, catalogue, find_model
from slipway.training.fit.shape import Counts, ModelShape, count, shape_from_config

__all__ = [
    "Answer",
    "Counts",
    "Known",
    "Machine",
    "ModelShape",
    "Need",
    "ask",
    "catalogue",
    "count",
    "find_model",
    "overview",
    "shape_from_config",
]
