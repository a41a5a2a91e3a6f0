"""Custom operators: one folder each, one meaning, every lowering tested against the same reference.

`registry.py` is the only list. Each folder gives the PyTorch operator, its ONNX function bodies, its Triton
kernel and its TensorRT registration; `from bsst.plugins import modulated_deform_conv` takes one of them alone.
"""
