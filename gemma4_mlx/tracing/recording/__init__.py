"""Observing a run of a model and changing what it computes: plans, recorders, interventions.

Only the plans and the look at the machine's free room come without MLX.
"""
