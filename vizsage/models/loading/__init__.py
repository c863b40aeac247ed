"""Loading a base model through one of the backends."""
