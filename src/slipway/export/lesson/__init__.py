"""Quantisation to look at: a few rows of a real tensor, step by step, with numpy alone."""
