"""Fits the layers of a converted model to data: to what the layers of the original one return."""
