"""The parts of `benchmarks/gateway_overhead.py`: upstream, load, and the gateways it compares."""
