"""Devices, streams and events: the host and CUDA."""
