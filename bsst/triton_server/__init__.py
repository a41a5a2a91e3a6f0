"""A plan as a model of NVIDIA's Triton Inference Server; not Triton the language, in which kernels are written."""
