"""Evaluation of an adapter or a base model on a split, in three packages.

- This package answers questions: `evaluate` asks a model and writes predictions and results, `score` scores a file of
  predictions without a model, `predict` answers one question.
- `report` shows an evaluation: report.html, and the same in Weights & Biases; and several on one page.
- `comparison` compares evaluations with each other.

The packages exchange files only: results.json and predictions.jsonl, with types in `vizsage.contract.results_file` and
`vizsage.scoring.rows`. `evaluate` imports `report`, because an evaluation ends with writing one; `report` imports
`comparison`, so that a difference is computed in one place; `comparison` imports this package, for the reader of
predictions and the form of tables. There are no other imports between the packages.
"""
