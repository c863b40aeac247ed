"""The tiny model in the package: its architecture, its training text and its recipe."""
