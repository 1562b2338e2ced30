"""How far the building of an atlas is."""

from dataclasses import dataclass

from ...progress import Steps, bar, pace


@dataclass(frozen=True)
class AtlasProgress(Steps):
    """How far the building is.

    Attributes:
        done, total, unit, seconds, rate: tokens, as :class:`.Steps` has them; fewer than the total
            are counted where the corpora have fewer.
        documents: counted so far.
    """

    documents: int = 0

    @property
    def tokens(self) -> int:
        """Counted so far, those of earlier runs included."""
        return self.done

    def __str__(self):
        line = f"{bar(self.done, self.total)} {self.done:,} of {self.total:,} tokens"
        return f"{line}, {self.documents:,} documents" + pace(self.rate, self.unit, self.left)
