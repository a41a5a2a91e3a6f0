"""Frames on their way: windows, scene cuts, tiles, queues and the float32 fallback."""
