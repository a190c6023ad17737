"""`slipway run`: talking to a model of the daemon, once or in a dialogue."""
