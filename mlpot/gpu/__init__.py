"""The executor of lists of stages on CUDA devices: it knows stages, and no network."""
