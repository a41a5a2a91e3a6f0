"""Plan and video to sharp video; imports neither torch nor onnx."""
