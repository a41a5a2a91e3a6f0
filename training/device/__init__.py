"""Training on a GPU: clips rendered there, every step a captured graph that never waits for the host."""
