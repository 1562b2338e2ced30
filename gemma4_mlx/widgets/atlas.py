"""``Atlas(atlas)``: what every expert is for, over a corpus.

A map of all experts of all layers, coloured by what they are for, by load, by a label's lift, by
the difference of two labels, or by a measure; an expert's card with its tokens and contexts;
search for the experts that work on a token, a text or a kind of tokens; and experts alike. Neither
MLX nor the model is needed.

The front end gets whole numbers and computes loads and lifts from them (``groups``, as for
``Routing``); whether a lift is more than chance comes after the first drawing (``significance``:
at 30 layers of 128 experts it takes a second).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import traitlets

from ..errors import StudyError
from ..tracing.data.selection import Selection
from .atlas_source import MEASURES, AtlasAnswers, AtlasSource
from .drawing import Drawing
from .grouptable import clearest
from .jobs import Jobs
from .selection import LinkedWidget
from .traceview import export

SNAPSHOT_BYTES = 1_000_000  # of cards that a snapshot keeps, as JSON


class Atlas(AtlasAnswers, LinkedWidget):
    """Look at an atlas of experts.

    Args:
        atlas: of :func:`gemma4_mlx.atlas` or :func:`gemma4_mlx.open_atlas`
        trace: a trace of the same model; its selection is then shared: the expert that is selected
            in ``Routing(trace)`` has its card here, and the other way round

    ``view.selection`` has the selected layer and expert, and can be set.

    Raises TypeError for something that is no atlas, StudyError for one without documents and for a
    trace of another model or without routing.
    """

    front = "atlas"

    meta = traitlets.Dict().tag(sync=True)

    def __init__(self, atlas: Any, trace: Any = None) -> None:
        self.source = AtlasSource(atlas)
        self.atlas = atlas
        self._jobs = Jobs()
        if trace is not None:
            self.source.check_model(trace.model, trace.routing)
        super().__init__()
        self.meta = self._facts()
        self.link(Selection() if trace is None else trace.selection)

    def _facts(self) -> dict:
        atlas, subject = self.atlas, self.atlas.counts.subject
        row, expert = clearest(atlas.by("label"))
        return {
            "layers": [int(layer) for layer in subject.layers],
            "experts": int(subject.num_experts),
            "k": int(subject.k),
            "source": str(atlas.model.get("source", "")),
            "tokens": atlas.tokens,
            "labels": self.source.labels(),
            "groupings": self.source.groupings(),
            "measures": [[key, *MEASURES[key]] for key in self.source.measures()],
            "interventions": [str(each) for each in subject.interventions],
            "remarks": [
                f"{label}: {said}" for label, each in atlas.remarks.items() for said in each
            ],
            "evenness": [round(float(value), 3) for value in atlas.evenness()],
            "start": {"layer": int(subject.layers[row]), "expert": expert},
        }

    # ---- answers ------------------------------------------------------------------------------

    def answer_groups(self, by: str = "label") -> tuple[dict, bytes]:
        """Loads and lifts by "label", "position", "role" or "kind": :meth:`.AtlasSource.groups`.

        Raises StudyError for another grouping.
        """
        return self.source.groups(by)

    def answer_kinds(self) -> dict:
        """What can be looked for: :meth:`.AtlasSource.kinds`."""
        return self.source.kinds()

    def answer_measure(self, name: str) -> tuple[dict, bytes]:
        """A measure of every expert: float32 (layers, E), nan for experts that were not used.

        Raises StudyError for one that the atlas does not have.
        """
        known = self.source.measures()
        if name not in known:
            raise StudyError(f"no measure {name!r} here; there are {', '.join(known) or 'none'}")
        return {}, np.asarray(known[name], "<f4").tobytes()

    def answer_find(
        self, text: str = "", kind: str = "", vocabulary: str = "input"
    ) -> tuple[dict, bytes]:
        """Who works on these tokens: :meth:`.AtlasSource.find`. Raises StudyError if none did."""
        return self.source.find(text, kind, vocabulary)

    def answer_neighbours(self, layer: int, expert: int, by: str = "tokens") -> tuple[dict, bytes]:
        """Experts like this one by "tokens" or "labels": :meth:`.AtlasSource.neighbours`.

        Raises StudyError for a layer or expert that does not exist.
        """
        return self.source.neighbours(layer, expert, by)

    def answer_export(self, format: str) -> tuple[None, bytes]:
        """The view as a PNG, SVG or HTML file. Raises ValueError for another format."""
        return None, export(self, format)

    # ---- snapshots and pictures -----------------------------------------------------------------

    def chosen(self) -> dict:
        """Layer and expert that the view shows: the selection's, where it has such."""
        start, chosen = self.meta["start"], self.selection
        layer, expert = chosen.get("layer"), chosen.get("expert")
        if layer not in self.meta["layers"] or expert not in range(self.meta["experts"]):
            return dict(start)
        return {"layer": layer, "expert": expert}

    def snapshot_requests(self) -> list[dict]:
        """The whole map by all it can be coloured by, and as many cards as fit: the chosen one,
        then those of the experts that are most clearly for a label."""
        cards = self.card_requests(SNAPSHOT_BYTES)
        return [*self.overall_requests(), *cards, *self.picture_requests()]

    def overall_requests(self) -> list[dict]:
        """All that is not about one expert."""
        return [
            *({"type": "groups", "by": by} for by in self.meta["groupings"]),
            self.significance_request(),
            {"type": "kinds"},
            *(
                {"type": "find", "kind": kind, "vocabulary": "input"}
                for kind in self.source.kinds().get("input", ())
            ),
            *({"type": "measure", "name": key} for key, *_ in self.meta["measures"]),
            {"type": "export", "format": "svg"},
        ]

    def by_clarity(self) -> list[tuple[int, int]]:
        """(layer, expert) of all that were used: the chosen one, then those for a label, highest
        lift first, then the others, busiest first."""
        lifts, used = self.source.lookup.lifts, self.atlas.counts.all_counts
        clear = np.where(lifts.found(), lifts.lift, 0).max(axis=1)
        order = np.lexsort((-used.ravel(), -clear.ravel()))
        now = self.chosen()
        pairs = [(now["layer"], now["expert"])]
        for i, e in zip(*np.unravel_index(order, used.shape)):
            if used[i, e]:
                pairs.append((self.meta["layers"][i], int(e)))
        return list(dict.fromkeys(pairs))

    def card_requests(self, room: int) -> list[dict]:
        """The cards that fit in so many bytes, clearest first."""
        wanted = []
        for layer, expert in self.by_clarity():
            request = {"type": "card", "layer": layer, "expert": expert}
            room -= 80 + len(repr(self.source.card(layer, expert)).encode())
            if room < 0 and wanted:
                break
            wanted.append(request)
        return wanted

    def drawing(self) -> Drawing:
        """The still picture: the map in the colours of what experts are for, and one card."""
        from .atlas_picture import draw_atlas

        return draw_atlas(self)

    def snapshot_image(self):
        return self.drawing().pil()
