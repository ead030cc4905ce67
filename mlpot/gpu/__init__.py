"""The executor of stages on CUDA devices: sums over neighbors in Triton, the rest in PyTorch."""
