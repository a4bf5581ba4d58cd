"""Keyword spotting: separable against standard convolutions."""
