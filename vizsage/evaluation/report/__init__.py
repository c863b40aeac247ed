"""Shows evaluations, from their results.json and predictions.jsonl, as pages and in Weights & Biases.

A page is report.html of one evaluation, or comparison.html of several. Differences between runs are those of
`vizsage.evaluation.comparison`. Nothing here answers questions, so a report of any earlier evaluation needs no model.
"""
