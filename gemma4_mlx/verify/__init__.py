"""The user's own proof, on the user's machine: ``gemma4-mlx verify``, ``verify(model)``.

    report = g4.verify.verify("google/gemma-4-E2B-it")
    print(report)                  # one page, with a verdict
    report.sound, report.faults

:mod:`.plain` is the arithmetic in NumPy, :mod:`.layers` holds every layer's mechanisms against it,
:mod:`.runs` the whole model against itself, :mod:`.questions` asks what it was taught.
"""

from .proof import verify
from .report import Finding, Report

__all__ = ["Finding", "Report", "verify"]
