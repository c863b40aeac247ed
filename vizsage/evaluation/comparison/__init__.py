"""Comparison of runs, sample by sample."""
