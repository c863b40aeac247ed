"""Schedulers that jobs are sent to, a folder each."""
