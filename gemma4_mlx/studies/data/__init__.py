"""Studies as values: counts that merge exactly, and measures of them.

Everything here needs numpy alone.
"""
