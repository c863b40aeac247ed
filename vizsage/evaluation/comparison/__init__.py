"""Compares evaluations on the same samples: joins their predictions, computes differences, prints them as tables.

It imports the reader of predictions and the form of tables from `vizsage.evaluation`, and nothing of `report`.
"""
