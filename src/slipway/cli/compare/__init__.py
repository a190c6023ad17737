"""`slipway compare`: the same prompts to several models and settings, side by side."""
