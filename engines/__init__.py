"""ONNX to plan: file format, builders, cache."""
