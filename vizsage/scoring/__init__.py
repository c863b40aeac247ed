"""Scores of predictions: pure functions of texts, shared by training and evaluation; no torch.

`registry` lists the metrics, `summary` computes the numbers of results.json from rows, `statistics` the intervals.
"""
