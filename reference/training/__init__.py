"""Training of the edge model."""
