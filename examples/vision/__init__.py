"""Image classification: separable against standard convolutions."""
