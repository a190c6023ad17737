"""The command line. Each command is a thin face of a function of the layer it names."""
