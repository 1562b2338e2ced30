"""``Routing(trace)``: which experts every token went to, what each expert is for, and what if not.

Three uses of one view. ``Routing(trace)`` looks at a trace; ``Routing(a, b)`` compares two of one
model; ``Routing(model)`` (or a chat, or a ``Prompt`` widget) fills in while anything generates with
that model. With ``Routing(trace, model=model)`` experts can be dropped, routed around, swapped or
boosted, and the answer generated again from the same cached prompt. With ``atlas=`` experts have
the names that an atlas gives them, their cards, and can be taken out by label.

The front end gets whole numbers and computes what it shows from them: how many tokens of each group
went to each expert (``groups``: loads and lifts), which experts a page of tokens went to in every
layer (``routes``), and the same for the whole context in few columns (``strip``).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import traitlets

from ..errors import Gemma4Error, TraceError
from ..tracing.data.groups import GROUPINGS
from .atlas_source import AtlasAnswers, AtlasSource
from .drawing import Drawing
from .grouptable import clearest, group_table
from .jobs import Jobs
from .traceview import PAGE, TraceView, media_of, parts_of

TOP_TEXTS = 16
STRIP = 256  # columns of the whole context
PERMUTATIONS = 499
COMPARED_BLOCKS = 1024  # blocks of a side in a comparison, at most
SNAPSHOT_ROUTES = 1_500_000  # bytes of routes that a snapshot keeps, as base64
SNAPSHOT_EXPERTS = 64  # experts of the chosen layer that a snapshot keeps, busiest first
SNAPSHOT_STRIPS = 6  # layers whose strip a snapshot keeps
OTHER_EXPERTS = 12  # experts of each other layer that a page of the whole trace keeps
LEAST_FOR_SOMETHING = 0.15  # share of the used experts, from which on the view begins with it
NO_WORDS = ("image", "video", "audio", "control tokens", "no letters")


class Routing(AtlasAnswers, TraceView):
    """Look at expert routing.

    Args:
        source: a trace with routing; or a model, a chat or a ``Prompt`` widget, to follow live
        other: a second trace of the same model, to compare with the first
        model: the model of the trace, for "what if": dropping or boosting experts
        media: pictures and sounds in the order of the prompt; None takes what the trace carries
        inputs: the traced ``ModelInputs`` or chat, needed for "what if" on prompts with media
        atlas: an atlas of the same model (:func:`gemma4_mlx.atlas`), which names the experts

    The selected token, layer and expert are ``trace.selection``'s, both ways.

    Raises TypeError for another ``source``, ``other`` or ``atlas``, TraceError for traces that
    cannot be compared: one without routing, or of different models; StudyError for an atlas of
    another model or without documents.
    """

    front = "routing"

    n = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        source: Any,
        other: Any = None,
        *,
        model: Any = None,
        media: Any = None,
        inputs: Any = None,
        atlas: Any = None,
    ) -> None:
        self._live = None
        self._jobs = Jobs()
        self._known: dict[tuple, tuple] = {}  # (which, by) -> (tokens, specialisation)
        if not hasattr(source, "routing"):
            from .live import LiveRouting

            self._live = LiveRouting.follow(source, self._grown)
            source = self._live
        self.trace, self.other, self.model, self.inputs = source, other, model, inputs
        if other is not None:
            _check_comparable(source, other)
        self.source = None if atlas is None else AtlasSource(atlas)
        if self.source is not None:
            self.source.check_model(source.model, source.routing)
        self.set_sources("a", source, media)
        if other is not None:
            self.set_sources("b", other, None)
        super().__init__()
        self.meta = self._facts()
        self.n = len(source.tokens)
        self.link(source.selection)

    def trace_of(self, which: str = "a"):
        """The first trace, or the second for "b"; the difference "b-a" speaks of the first."""
        return self.other if which == "b" else self.trace

    def _facts(self) -> dict:
        routing = self.trace.routing
        if routing is None:
            return {
                "layers": [],
                "empty": "There is no routing in this trace: the model has no experts, or the "
                "trace was made without routing=g4.RoutingPlan().",
            }
        facts = {
            "layers": [int(i) for i in routing.layers],
            "experts": int(routing.num_experts),
            "k": int(routing.k),
            "source": str(self.trace.model.get("source", "")),
            "groupings": list(GROUPINGS),
            "atlas": None if self.source is None else self.source.atlas.tokens,
            "parts": parts_of(self.trace.tokens),
            "media": media_of(self.trace.tokens),
            "live": self._live is not None,
            "revision": self._live.revision if self._live is not None else 0,
            "whatif": self._why_no_whatif(),
            "start": self._start(routing),
        }
        if self.other is not None:
            tokens = self.other.tokens
            facts["other"] = {
                "n": len(tokens),
                "parts": parts_of(tokens),
                "media": media_of(tokens),
            }
        return facts

    def _why_no_whatif(self) -> str:
        """Why experts cannot be changed here and what would do it; "" where they can."""
        from .whatif import prompt_of

        if self._live is not None:
            return "What if experts were missing? On a trace: Routing(chat.trace(), model=model)."
        if self.model is None:
            return "What if experts were missing? With the model: Routing(trace, model=model)."
        try:
            prompt_of(self.model, self.trace, self.inputs)
        except Gemma4Error as error:
            return f"What if experts were missing? Not here: {error}"
        return ""

    def _start(self, routing) -> dict:
        """The first grouping by which experts are for something, the layer with most of these and
        the clearest of them; where a text is too short for that, loads and the busiest expert."""
        middle = int(routing.layers[len(routing.layers) // 2])
        start = {"layer": middle, "expert": None, "by": GROUPINGS[0], "view": "load"}
        if not routing.n or self._live is not None:
            return start
        for by in GROUPINGS:
            found = self.specialisation(by)
            purpose = found.purpose
            if (purpose >= 0).sum() < LEAST_FOR_SOMETHING * (found.overall > 0).sum():
                continue
            words = np.array([name not in NO_WORDS for name in found.groups.names])
            row, expert = clearest(found, words)
            layer = int(routing.layers[row])
            return {"layer": layer, "expert": expert, "by": by, "view": "purpose"}
        return start | {"expert": int(routing.load(middle).argmax())}

    def specialisation(self, by: str = "script", which: str = "a"):
        """Loads and lifts by group of tokens, computed once for each length of the trace."""
        trace = self.trace_of(which)
        n, known = self._known.get((which, by), (None, None))
        if n != trace.routing.n:
            known = trace.routing.specialisation(by)
            self._known[which, by] = (trace.routing.n, known)
        return known

    def _grown(self) -> None:
        """The live run has more tokens; called at most 30 times a second."""
        with self.hold_sync():  # one message for both
            self.meta = self._facts()
            self.n = len(self.trace.tokens)

    # ---- answers ------------------------------------------------------------------------------

    def answer_groups(self, by: str = "script", which: str = "a") -> tuple[dict, bytes]:
        """How many tokens of each group went to each expert: :func:`.grouptable.group_table`.

        By "label": of the atlas's documents; what its experts are for is told with
        ``answer_significance``.
        """
        if by == "label":
            return self._needed().groups()
        if not self.trace_of(which).routing.n:
            return {"by": by, "n": 0, "groups": []}, b""
        return group_table(self.specialisation(by, which))

    def answer_routes(self, start: int, stop: int, which: str = "a") -> tuple[dict, bytes]:
        """Routing of a page of tokens in every layer: experts (layers, tokens, k), strongest first,
        as uint8 (uint16 above 256 experts), then uint8 shares of the gate, 255 for all of it."""
        routing = self.trace_of(which).routing
        start = max(0, min(int(start), routing.n))
        stop = max(start, min(int(stop), routing.n, start + PAGE))
        experts = routing.experts[:, start:stop]
        part = slice(start, stop)
        shares = np.stack([routing.gate(layer, part) for layer in routing.layers])
        wide = 1 if routing.num_experts <= 256 else 2
        bulk = experts.astype(f"<u{wide}").tobytes() + _bytes_of(shares).tobytes()
        return {"start": start, "stop": stop, "bytes": wide}, bulk

    def answer_strip(self, layer: int, which: str = "a") -> tuple[dict, bytes]:
        """The whole context in few columns: each expert's mean share of the gate, (columns, E)
        uint8, 255 for ``high``."""
        routing = self.trace_of(which).routing
        experts, _ = routing.at(layer)
        columns = min(STRIP, routing.n)
        of = np.arange(routing.n) * columns // max(1, routing.n)
        where = of[:, None] * routing.num_experts + experts
        size = columns * routing.num_experts
        sums = np.bincount(where.ravel(), routing.gate(layer).ravel(), minlength=size)
        mean = sums.reshape(columns, -1) / np.bincount(of, minlength=columns)[:, None]
        high = float(mean.max(initial=0)) or 1.0
        return {"columns": columns, "high": high}, _bytes_of(mean / high).tobytes()

    def answer_scale(self, which: str = "a") -> tuple[dict, bytes | None]:
        """The learned scale of every expert, float32 (layers, E); no bytes where unknown."""
        scale = self.trace_of(which).routing.scale
        return {}, None if scale is None else np.asarray(scale, "<f4").tobytes()

    def answer_expert(self, layer: int, expert: int, which: str = "a") -> dict:
        """An expert's load and rank, the texts that are most its own, and its usual partners.

        Raises TraceError for a layer that was not traced or an expert that does not exist.
        """
        routing = self.trace_of(which).routing
        texts = routing.top_tokens(layer, expert, TOP_TEXTS, order="lift")
        row = routing.layers.index(layer)
        overall = self.specialisation("script", which).overall[row] if routing.n else [0]
        chosen = routing.experts[row]
        mine = (chosen == expert).any(axis=1)
        together = np.bincount(chosen[mine].ravel(), minlength=routing.num_experts)
        together[expert] = 0
        partners = [int(e) for e in np.argsort(-together, kind="stable")[:5] if together[e]]
        return {
            "load": float(overall[expert]),
            "rank": int((overall > overall[expert]).sum()) + 1,
            "texts": [
                [t["text"], t["first"], t["count"], *(round(t[k], 4) for k in ("share", "gate"))]
                for t in texts
            ],
            "partners": [[e, round(together[e] / int(mine.sum()), 4)] for e in partners],
        }

    def answer_compare(self) -> dict:
        """The two traces' routing compared, layer by layer, with a permutation test; or how far
        that is, ``{"running": share}``: ask again.

        Raises TraceError if there is only one trace.
        """
        if self.other is None:
            raise TraceError("there is only one trace: Routing(a, b) compares two")
        return self._jobs.poll("compare", self._compare)

    def _compare(self, tell) -> dict:
        from ..tracing import compare_routing

        a, b = self.trace.routing, self.other.routing
        longest = -(-max(a.n, b.n) // COMPARED_BLOCKS)
        block = max(1, min(max(16, longest), a.n // 4, b.n // 4))
        result = compare_routing(a, b, block=block, permutations=PERMUTATIONS, progress=tell)
        rows = []
        for i, layer in enumerate(result.layers):
            order = np.argsort(-np.abs(result.difference[i]))[:4]
            rows.append(
                {
                    "layer": int(layer),
                    "distance": float(result.distance[i]),
                    "p": float(result.p_values[i].min()),
                    "experts": [[int(e), float(-result.difference[i, e])] for e in order],
                }
            )
        note = (
            f"Difference: half the summed difference of loads over k, 0 for the same load, 1 for "
            f"disjoint experts. All layers together: p = {result.p_value:.3f}. p of a layer: "
            f"chance that relabelled blocks of {block} tokens differ as much in some expert of any "
            "layer. Experts: load in B minus A, percentage points of the tokens."
        )
        return {"layers": rows, "note": note}

    def answer_whatif(self, changes: list, tokens: int = 40, everywhere: bool = False) -> dict:
        """Generate again with experts changed, and with random ones of the same load as control;
        or how far that is, ``{"running": share}``: ask again.

        ``changes``: as of :func:`.whatif.what_if`. Raises TraceError if the view has no model, or
        no inputs for a prompt with media, InterventionError for experts or layers that do not
        exist, StudyError for a label that has no such experts.
        """
        from .whatif import what_if

        if self.model is None:
            raise TraceError("what-if needs the model: Routing(trace, model=model)")

        def work(tell):
            return what_if(
                self.model,
                self.trace,
                self.inputs,
                self.source and self.source.atlas,
                changes=changes,
                max_tokens=int(tokens),
                everywhere=bool(everywhere),
                progress=tell,
            )

        asked = {"changes": changes, "tokens": tokens, "everywhere": everywhere}
        return self._jobs.poll(json.dumps(asked, sort_keys=True), work)

    # ---- snapshots and pictures -----------------------------------------------------------------

    def chosen(self) -> dict:
        """Layer, expert and token that the view shows: the selection's, where it has such. An
        expert belongs to its layer: another layer's start has another."""
        start, chosen = self.meta["start"], self.selection
        layer, expert, token = (chosen.get(name) for name in ("layer", "expert", "token"))
        if layer not in self.trace.routing.layers:
            layer, expert = start["layer"], start["expert"]
        elif expert not in range(self.meta["experts"]):
            expert = start["expert"] if layer == start["layer"] else None
        return {
            "layer": layer,
            "expert": expert,
            "token": token if token in range(self.n) else None,
        }

    def snapshot_requests(self) -> list[dict]:
        """Loads and lifts whole; text and routes of as many pages as fit; experts of the chosen
        layer and of the chosen token."""
        if not self.meta["layers"] or not self.n:
            return []
        now = self.chosen()
        wanted = self._overall(SNAPSHOT_EXPERTS, 0, SNAPSHOT_STRIPS)
        wanted += self._pages(now["token"], "a", SNAPSHOT_ROUTES)
        if self.source is not None:
            wanted += [{"type": "groups", "by": "label"}, self.significance_request()]
            cards = [(w["layer"], w["expert"]) for w in wanted if w["type"] == "expert"]
            wanted += [{"type": "card", "layer": layer, "expert": e} for layer, e in cards]
            for layer, expert in cards:
                self.source.card(layer, expert)
            wanted += self.picture_requests()
        if self.other is not None:
            wanted += [{"type": "groups", "by": by, "which": "b"} for by in self.meta["groupings"]]
            wanted += self._pages(None, "b", SNAPSHOT_ROUTES)
            wanted.append({"type": "strip", "layer": now["layer"], "which": "b"})
            wanted.append({"type": "compare"})
            self._jobs.job("compare", self._compare).wait()
        for asked in self._jobs.done():
            if asked not in ("compare", "significance"):
                wanted.append({"type": "whatif", **json.loads(asked)})
        return [*wanted, {"type": "export", "format": "svg"}]

    def whole_requests(self) -> list[dict]:
        """What a page of the whole trace keeps: all of the text, and for every layer the whole
        context in few columns and more experts. Routes are apart: :meth:`route_requests`."""
        layers = len(self.meta["layers"])
        wanted = self._overall(self.meta["experts"], OTHER_EXPERTS, layers)
        wanted += self.page_requests(None, pages=self.n)
        wanted += [{"type": "media", "span": m["index"]} for m in self.meta["media"]]
        return [*wanted, {"type": "export", "format": "svg"}]

    def route_requests(self, room: int, around: int | None = None) -> list[dict]:
        """The routes of as many pages as fit in ``room`` bytes of base64, that of token ``around``
        first."""
        wanted = self._pages(around, "a", room)
        return [request for request in wanted if request["type"] == "routes"]

    def _overall(self, experts: int, others: int, strips: int) -> list[dict]:
        """Loads and lifts whole; the busiest ``experts`` of the chosen layer, ``others`` of every
        other and those of the chosen token; strips of as many layers."""
        now, routing = self.chosen(), self.trace.routing
        layers = [now["layer"], *(i for i in routing.layers if i != now["layer"])]
        chosen = []
        for layer, count in zip(layers, [experts, *[others] * len(layers)]):
            busy = np.argsort(-routing.load(layer))[:count] if count else []
            chosen += [(layer, expert) for expert in busy]
        if now["expert"] is not None:
            chosen.append((now["layer"], now["expert"]))
        if now["token"] is not None:
            paths = routing.experts[:, now["token"]].tolist()
            chosen += [(i, e) for i, path in zip(routing.layers, paths) for e in path]
        return [
            *({"type": "groups", "by": by, "which": "a"} for by in self.meta["groupings"]),
            {"type": "scale", "which": "a"},
            *(
                {"type": "expert", "layer": layer, "expert": expert, "which": "a"}
                for layer, expert in dict.fromkeys((int(i), int(e)) for i, e in chosen)
            ),
            *({"type": "strip", "layer": layer, "which": "a"} for layer in layers[:strips]),
        ]

    def _pages(self, around: int | None, which: str, room: int) -> list[dict]:
        """Requests for the pages that fit: the first ones, the last and that of the selection."""
        routing = self.trace_of(which).routing
        wide = 1 if routing.num_experts <= 256 else 2
        page = (1 + wide) * len(routing.layers) * routing.k * min(PAGE, routing.n) * 4 // 3 + 200
        room //= 2 if self.other is not None else 1
        n, wanted = routing.n, []
        last = -(-n // PAGE) - 1
        first = [0, last] if around is None else [around // PAGE, 0, last]
        for number in list(dict.fromkeys([*first, *range(last)]))[: max(1, room // page)]:
            part = {"start": number * PAGE, "stop": min(n, (number + 1) * PAGE), "which": which}
            wanted += [{"type": "tokens", **part}, {"type": "routes", **part}]
        pages = {request["start"] for request in wanted}
        for media in media_of(self.trace_of(which).tokens):
            if media["start"] // PAGE * PAGE in pages:
                wanted.append({"type": "media", "span": media["index"], "which": which})
        return wanted

    def drawing(self) -> Drawing:
        """The still picture: the text in its experts' colours, the map, and one expert."""
        from .routing_picture import draw_routing

        return draw_routing(self)

    def snapshot_image(self):
        return self.drawing().pil()


def _bytes_of(shares: np.ndarray) -> np.ndarray:
    """Shares from 0 to 1 as uint8; one that is not zero does not become zero."""
    return np.where(shares > 0, np.maximum(np.rint(shares * 255), 1), 0).astype(np.uint8)


def _check_comparable(a, b) -> None:
    """Raise unless two traces have routing of one model."""
    if not hasattr(b, "routing"):
        raise TypeError(
            f"Routing(a, b) compares two traces, and a {type(b).__name__} is none; a model goes by "
            "its name: Routing(trace, model=model)"
        )
    if b.routing is None or a.routing is None:
        raise TraceError("both traces need routing to be compared")
    mine, theirs = a.model.get("fingerprint"), b.model.get("fingerprint")
    if mine != theirs or a.routing.num_experts != b.routing.num_experts:
        from ..tracing.data.comparison import different_models

        raise different_models(a.model, b.model)
