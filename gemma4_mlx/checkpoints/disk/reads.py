"""What was read from disk, counted."""

from dataclasses import dataclass, fields


@dataclass
class Reads:
    """What was read from disk, and how long was waited for it.

    Attributes:
        held: chosen experts that were in memory, one for each layer and step.
        ahead: chosen experts that had been asked for before they were chosen.
        missed: chosen experts that had to be read then.
        nbytes: bytes read.
        waited: seconds in which nothing could be computed.
    """

    held: int = 0
    ahead: int = 0
    missed: int = 0
    nbytes: int = 0
    waited: float = 0.0

    def __sub__(self, earlier: "Reads") -> "Reads":
        return Reads(*(getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)))

    def __str__(self) -> str:
        told = f"{self.nbytes / 1e6:,.0f} MB read, {self.waited:.1f} s waited for"
        chosen = self.held + self.ahead + self.missed
        return f"{told}; {self.held / chosen:.0%} of the experts were held" if chosen else told
