"""`python -m slipway`: the command line, for those who start Python themselves."""

from slipway.cli.main import entry

if __name__ == "__main__":
    entry()
