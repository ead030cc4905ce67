"""The hot operations: sums over edges and, on knots, radial convolutions."""
