"""Slipway: one system for the whole life of a language model that its owner runs.

data -> fine-tune -> merge -> GGUF -> quantise -> name:tag -> serve -> gateway -> client.

Importing this package does no work and loads neither torch nor transformers.
"""

__version__ = "0.1.0"
