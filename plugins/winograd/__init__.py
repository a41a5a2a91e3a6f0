"""3x3 convolutions as Winograd products on a CPU; a node that a graph pass makes, see `graph_pass`."""

OP_TYPE = "BsstConvolution3x3"
"""Inputs x (N, I, H, W), weight (O, I, 3, 3), bias (O,); stride 1, zero padding 1; H and W multiples of 4."""
