"""The compiled executor of lists of stages: it knows stages, and no network."""
