"""Measurements behind `cooc bench`: side by side in one run, medians and ratios."""
