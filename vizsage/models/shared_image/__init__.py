"""One pass over an image for all of its questions: the loss and gradients of a row for each, several times faster.

`vizsage.data.packing` lays the questions out as a tree behind their image; here a model is run over such a row.
"""
