"""The network of a plan: wiring of its stages, memory of a clip, clips in flight."""
