"""Measure the speed and memory of GGUF models with llama.cpp's own benchmarks.

`grid` turns a wish into single measurements, `run` makes them and keeps each as it comes,
`analyse` says what is best and why, `chart` draws. Importing this package is cheap.
"""

from __future__ import annotations

from slipway.export.bench.grid import BenchSpec, Grid, Point, Setup
from slipway.export.bench.run import BenchModel, BenchReport, bench

__all__ = ["BenchModel", "BenchReport", "BenchSpec", "Grid", "Point", "Setup", "bench"]
