"""Volume classification: separable against standard 3D convolutions."""
