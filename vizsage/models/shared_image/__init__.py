"""One pass over an image for all of its questions: the loss and gradients of a row for each, several times faster.

`vizsage.data.packing` makes a tree of the questions on an image; here a model computes such trees.
"""
