"""What MLX's CPU backend is better served by than by its own operations.

Chosen in :mod:`..ops` and nowhere else. A Mac's GPU needs none of it.
"""
