"""PyTorch truth: RAFT and BSSTNet, checkpoint loading, training."""
