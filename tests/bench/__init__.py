"""Measurements: not tests, since a machine's speed proves nothing about the code."""
