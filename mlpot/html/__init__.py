"""Pages to look at, keep and pass on: one HTML file each, which asks no other file and no network for anything."""
