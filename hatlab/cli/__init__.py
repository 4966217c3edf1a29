"""The command `hatlab`."""
