"""Checkpoint to ONNX: one file per stage, one file per graph pass."""
