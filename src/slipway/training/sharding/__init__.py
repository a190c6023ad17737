"""Splitting a model over the processes that train it, as accelerate's or DeepSpeed's files ask."""

from slipway.training.sharding.config import Sharding, read_sharding

__all__ = ["Sharding", "read_sharding"]
