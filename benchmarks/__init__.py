"""Measurements of speed, memory and data: `python -m benchmarks.NAME`, from the root of the repository."""
