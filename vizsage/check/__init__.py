"""`vizsage check`: find what would stop a run hours later, without loading weights."""

from vizsage.check.preflight import check, quick_check

__all__ = ["check", "quick_check"]
