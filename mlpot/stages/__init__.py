"""What networks are made of, each with its derivatives, as plain PyTorch."""
