"""The programs that hold the user's handler, one for each language."""
