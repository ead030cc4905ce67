"""The data doctor: what is wrong with a training set, and the command that mends it."""
