"""What was observed, as values: arrays with named axes, their analysis and their file.

Imports numpy alone, so that a trace opens and is drawn where MLX is not installed.
"""
