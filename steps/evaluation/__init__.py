"""Evaluation: figures with intervals, calibration, comparison, slices, what more labels would bring."""
