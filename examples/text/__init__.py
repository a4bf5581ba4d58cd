"""Text classification: separable against standard 1D convolutions."""
