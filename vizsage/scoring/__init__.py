"""Normalisation and metrics: pure functions of text, shared by training and evaluation; no torch."""
