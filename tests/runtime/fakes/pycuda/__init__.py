"""Strict stand-in for pycuda over a simulated GPU; nothing here shows how a real GPU behaves or how fast it is."""
