"""`python -m slipway.cli`: the same as the console script."""

from slipway.cli.main import entry

if __name__ == "__main__":
    entry()
