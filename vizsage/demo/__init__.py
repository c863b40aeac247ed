"""The demo: drawn data and a tiny model."""
