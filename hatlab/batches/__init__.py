"""Notebooks as functions of their parameters, run by the hundred."""
