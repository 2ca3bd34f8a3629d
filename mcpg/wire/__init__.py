"""What crosses HTTP: one file a noun. Imports nothing of ours but errors; a row is never a body."""
