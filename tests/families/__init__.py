"""Builders of small random models of the real architectures, with tokenizer and processor made on the spot."""
