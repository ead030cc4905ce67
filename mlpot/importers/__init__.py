"""Models of other packages as ours."""
