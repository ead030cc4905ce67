"""Pictures of what was trained and run, on matplotlib objects without global state."""
