"""Sessions: one stage of a plan in ONNX Runtime or TensorRT."""
