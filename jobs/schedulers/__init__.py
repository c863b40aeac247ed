"""Schedulers that jobs are sent to, one folder each."""
