"""Small real things and named fakes for tests: `tiny` makes a real tokenizer and model in a second.

Import from its modules, for example `from slipway.testing.tiny import tiny_model`.
"""
