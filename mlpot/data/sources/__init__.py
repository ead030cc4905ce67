"""Files of other people: one reader for every command, conversion and correction."""
