"""A job made of segments: planned once, restored one by one, kept on disk until they are joined."""
