"""Shows an evaluation, from its results.json and predictions.jsonl: report.html, and a run of Weights & Biases.

It imports neither the answering of questions nor the comparison, so a report of any earlier evaluation needs no model.
"""
