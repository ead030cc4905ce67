"""The `mlpot` command: thin calls, one file a family of commands."""
