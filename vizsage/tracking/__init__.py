"""Trackers: programs that show the curves of runs while they are trained, and the scores of their evaluations.

One module per tracker; `TRACKERS` in vizsage.contract is their registry, and `trackers.Trackers` what the rest calls.
"""
