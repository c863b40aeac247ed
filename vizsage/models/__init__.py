"""How a base model and its adapter are loaded and run."""
