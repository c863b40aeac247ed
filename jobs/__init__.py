"""Batch jobs: `python -m jobs` sends runs to a cluster and follows them. Uses `vizsage`, which does not import it."""
