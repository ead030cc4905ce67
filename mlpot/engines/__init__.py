"""Other programs that compute with our potentials: one file an engine, and what it needs."""
