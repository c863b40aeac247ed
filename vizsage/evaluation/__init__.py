"""Evaluation of an adapter or a base model on a split."""
