"""``Routing(trace)``: which experts every token went to, what each expert does, and what if not.

Three uses of one view. ``Routing(trace)`` looks at a trace; ``Routing(a, b)`` compares two of one
model; ``Routing(model)`` (or a chat, or a ``Prompt`` widget) fills in while anything generates with
that model. With ``Routing(trace, model=model)`` an expert can be dropped, routed around, swapped
or boosted, and the answer generated again from the same cached prompt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import traitlets

from gemma4_mlx.errors import TraceError
from gemma4_mlx.widgets.drawing import (
    CATEGORIES,
    FAINT,
    INK,
    Drawing,
    color_table,
    css,
    flow_tokens,
)
from gemma4_mlx.widgets.traceview import TraceView, media_of, parts_of

TOP_TOKENS = 24
SNAPSHOT_LAYER_BYTES = 700_000  # routing of whole layers that a snapshot keeps
SNAPSHOT_CHOICES = 8_000  # (token, layer, expert) choices in the paths that a snapshot keeps
SNAPSHOT_EXPERTS = 64  # experts of the chosen layer that a snapshot keeps, busiest first


class Routing(TraceView):
    """Look at expert routing.

    Parameters
    ----------
    source : a trace with routing; or a model, a chat or a ``Prompt`` widget, to follow live
    other : a second trace of the same model, to compare with the first
    model : the model of the trace, for "what if": dropping or boosting experts
    media : pictures and sounds in the order of the prompt; None takes what the trace carries
    inputs : the traced ``ModelInputs`` or chat, needed for "what if" on prompts with media

    The selected token, layer and expert are ``trace.selection``'s, both ways.

    Raises TypeError for another ``source`` or ``other``, TraceError for traces that cannot be
    compared: one without routing, or of different models.
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
    ) -> None:
        self._live = None
        self._whatif: list[tuple[dict, dict]] = []  # questions asked, with their answers
        if not hasattr(source, "routing"):
            from gemma4_mlx.widgets.live import LiveRouting

            self._live = LiveRouting.follow(source, self._grown)
            source = self._live
        self.trace, self.other, self.model, self.inputs = source, other, model, inputs
        if other is not None:
            _check_comparable(source, other)
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
            "parts": parts_of(self.trace.tokens),
            "media": media_of(self.trace.tokens),
            "live": self._live is not None,
            "model": self.model is not None,
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

    @staticmethod
    def _start(routing) -> dict:
        """The layer whose load is least even, and its busiest expert."""
        if not routing.n:
            return {"layer": int(routing.layers[-1]), "expert": None, "token": None}
        layer = int(np.argmin(routing.entropy()))
        busiest = int(np.argmax(routing.load()[layer]))
        return {"layer": int(routing.layers[layer]), "expert": busiest, "token": None}

    def _grown(self) -> None:
        """The live run has more tokens; called at most 30 times a second."""
        self.meta = self._facts()
        self.n = len(self.trace.tokens)

    # ---- answers ------------------------------------------------------------------------------

    def answer_load(self, which: str = "a") -> tuple[dict, bytes]:
        """Share of each layer's routed tokens, float32 (layers, experts); rows sum to 1.

        "b-a" gives the difference of the two traces' shares.
        """
        if which == "b-a":
            mine, theirs = self._share("a"), self._share("b")
            note = "Load in B minus load in A, in percentage points of a layer's routed tokens."
            return {"note": note}, (theirs - mine).astype("<f4").tobytes()
        routing, share = self.trace_of(which).routing, self._share(which)
        content = {
            "dead": (share == 0).sum(axis=1).tolist(),
            "evenness": (routing.entropy() / np.log2(routing.num_experts)).tolist(),
        }
        return content, share.astype("<f4").tobytes()

    def _share(self, which: str) -> np.ndarray:
        routing = self.trace_of(which).routing
        return routing.load() / routing.k

    def answer_layer(self, layer: int, which: str = "a") -> tuple[dict, bytes]:
        """One layer's routing: uint16 experts (n, k), strongest first, then float32 weights."""
        experts, weights = self.trace_of(which).routing.at(layer)
        bulk = experts.astype("<u2").tobytes() + weights.astype("<f4").tobytes()
        return {"n": len(experts)}, bulk

    def answer_path(self, token: int, which: str = "a") -> dict:
        """The experts and weights of one token in every layer.

        Raises TraceError for a token outside the trace.
        """
        routing = self.trace_of(which).routing
        if not 0 <= token < routing.n:
            raise TraceError(f"token {token}: the trace has {routing.n}")
        return {
            "layers": [
                {
                    "layer": int(layer),
                    "experts": routing.experts[i, token].tolist(),
                    "weights": [round(float(w), 5) for w in routing.weights[i, token]],
                }
                for i, layer in enumerate(routing.layers)
            ]
        }

    def answer_expert(self, layer: int, expert: int, which: str = "a") -> dict:
        """An expert's load, its top tokens, its share of each part, and its usual partners.

        Raises TraceError for a layer that was not traced or an expert that does not exist.
        """
        trace = self.trace_of(which)
        routing = trace.routing
        experts, weights = routing.at(layer)
        share = routing.load(layer) / routing.k
        if not 0 <= expert < routing.num_experts:
            raise TraceError(f"expert {expert}: there are experts 0 to {routing.num_experts - 1}")
        mine = (experts == expert).any(axis=1)
        weight = np.where(experts == expert, weights, 0).max(axis=1)
        top = np.argsort(-weight, kind="stable")[: min(TOP_TOKENS, int(mine.sum()))]
        parts: dict[str, list] = {}
        for part in parts_of(trace.tokens):
            seen = parts.setdefault(part["name"], [part["role"], 0, 0])
            seen[1] += int(mine[part["start"] : part["stop"]].sum())
            seen[2] += part["stop"] - part["start"]
        together = np.bincount(experts[mine].ravel(), minlength=routing.num_experts)
        together[expert] = 0
        partners = [int(e) for e in np.argsort(-together, kind="stable")[:5] if together[e]]
        return {
            "load": float(share[expert]),
            "rank": int((share > share[expert]).sum()) + 1,
            "top": [[int(i), float(weight[i]), trace.tokens.texts[i]] for i in top],
            "parts": [[name, role, hit / total] for name, (role, hit, total) in parts.items()],
            "partners": [[e, together[e] / max(1, int(mine.sum()))] for e in partners],
        }

    def answer_compare(self) -> dict:
        """The two traces' routing compared, layer by layer, with a permutation test.

        Raises TraceError if there is only one trace.
        """
        from gemma4_mlx.tracing import compare_routing

        if self.other is None:
            raise TraceError("there is only one trace: Routing(a, b) compares two")
        a, b = self.trace.routing, self.other.routing
        block = max(1, min(16, a.n // 4, b.n // 4))
        result = compare_routing(a, b, block=block, permutations=499)
        rows = []
        for i, layer in enumerate(result.layers):
            order = np.argsort(-np.abs(result.difference[i]))[:4]
            rows.append(
                {
                    "layer": int(layer),
                    "distance": float(result.distance[i]),
                    "p": float(result.p_values[i].min()),
                    "experts": [[int(e), float(-result.difference[i, e] / a.k)] for e in order],
                }
            )
        note = (
            f"Difference: half the summed difference of loads, 0 for the same load, 1 for disjoint "
            f"experts. All layers together: p = {result.p_value:.3f}. p of a layer: chance that "
            f"relabelled blocks of {block} tokens differ as much in some expert of any layer. "
            "Experts: load in B minus A, percentage points."
        )
        return {"layers": rows, "note": note}

    def answer_whatif(
        self,
        layer: int,
        expert: int,
        action: str,
        other: int = 0,
        factor: float = 2.0,
        tokens: int = 40,
        everywhere: bool = False,
    ) -> dict:
        """Generate again with one expert changed, and with a random one as control.

        Raises TraceError if the view has no model, or no inputs for a prompt with media,
        InterventionError for experts or layers that do not exist.
        """
        from gemma4_mlx.widgets.whatif import what_if

        if self.model is None:
            raise TraceError("what-if needs the model: Routing(trace, model=model)")
        asked = {
            "layer": layer,
            "expert": expert,
            "action": action,
            "other": other,
            "factor": factor,
            "tokens": tokens,
            "everywhere": everywhere,
        }
        for request, result in self._whatif:  # greedy answers stay the same
            if request == asked:
                return result
        result = what_if(
            self.model,
            self.trace,
            self.inputs,
            layer=int(layer),
            expert=int(expert),
            action=action,
            other=int(other),
            factor=float(factor),
            max_tokens=int(tokens),
            everywhere=bool(everywhere),
        )
        self._whatif = [*self._whatif[-7:], (asked, result)]
        return result

    # ---- snapshots and pictures -----------------------------------------------------------------

    def chosen(self) -> dict:
        """Layer, expert and token that the view shows: the selection's, where it has such."""
        start, chosen = self.meta["start"], self.selection
        layer = chosen.get("layer")
        layer = layer if layer in self.trace.routing.layers else start["layer"]
        expert, token = chosen.get("expert"), chosen.get("token")
        return {
            "layer": layer,
            "expert": expert if expert in range(self.meta["experts"]) else start["expert"],
            "token": token if token in range(self.n) else None,
        }

    def snapshot_requests(self) -> list[dict]:
        """Every layer's routing as far as it fits, the experts of the chosen layer, paths."""
        if not self.meta["layers"] or not self.n:
            return []
        now, routing = self.chosen(), self.trace.routing
        wanted: list[dict] = [{"type": "load", "which": "a"}]
        wanted += [{**r, "which": "a"} for r in self.page_requests(now["token"])]
        for media in self.meta["media"]:
            wanted.append({"type": "media", "span": media["index"], "which": "a"})
        room = SNAPSHOT_LAYER_BYTES // (6 * routing.n * routing.k)
        layers = [now["layer"], *(i for i in self.meta["layers"] if i != now["layer"])]
        for layer in layers[: max(1, room)]:
            wanted.append({"type": "layer", "layer": layer, "which": "a"})
        busy = np.argsort(-routing.load(now["layer"]), kind="stable")[:SNAPSHOT_EXPERTS].tolist()
        for expert in dict.fromkeys([*busy, now["expert"]]):
            wanted.append({"type": "expert", "layer": now["layer"], "expert": expert, "which": "a"})
        first = [now["token"]] if now["token"] is not None else []
        for token in first:  # the experts on its path
            for i, layer in enumerate(self.meta["layers"]):
                for expert in routing.experts[i, token].tolist():
                    wanted.append(
                        {"type": "expert", "layer": layer, "expert": expert, "which": "a"}
                    )
        paths = max(1, SNAPSHOT_CHOICES // (len(self.meta["layers"]) * routing.k))
        for token in list(dict.fromkeys([*first, *range(self.n)]))[:paths]:
            wanted.append({"type": "path", "token": token, "which": "a"})
        if self.other is not None:
            wanted += [{"type": "load", "which": which} for which in ("b", "b-a")]
            wanted += [{**r, "which": "b"} for r in self.page_requests(None, "b")]
            for media in self.meta["other"]["media"]:
                wanted.append({"type": "media", "span": media["index"], "which": "b"})
            wanted.append({"type": "layer", "layer": now["layer"], "which": "b"})
            wanted.append({"type": "layer", "layer": now["layer"], "which": "b-a"})
            wanted.append({"type": "compare"})
        wanted += [{"type": "whatif", **asked} for asked, _ in self._whatif]
        return [*wanted, {"type": "export", "format": "svg"}]

    def drawing(self) -> Drawing:
        """The still picture: the text in the colours of its experts, and the load map."""
        if not self.meta["layers"] or not self.n:
            out = Drawing(640, 60)
            out.text(16, 36, self.meta.get("empty", "No token yet."), 12, FAINT)
            return out
        now, routing, tokens = self.chosen(), self.trace.routing, self.trace.tokens
        share, layers, count = self._share("a"), self.meta["layers"], routing.num_experts
        cell = max(3.0, min(26.0, 520 / count))
        row = max(10.0, min(22.0, 260 / len(layers)))
        out = Drawing(1000, max(400, 150 + row * len(layers) + 60))
        out.text(16, 28, "Expert routing", 17, bold=True)
        title = f"{self.n:,} tokens, {len(layers)} layers x {count} experts, {routing.k} per token"
        source = self.meta["source"]
        out.text(16, 48, f"{title} · {source}" if source else title, 12, FAINT)
        layer_row = layers.index(now["layer"])
        pinned = np.argsort(-share[layer_row], kind="stable")[:8]
        colors = {int(e): c for e, c in zip(pinned, CATEGORIES)}
        top = routing.at(now["layer"])[0][:, 0]
        out.text(16, 80, f"Layer {now['layer']}: each token's strongest expert", 13, bold=True)
        x = 16.0
        for expert, color in colors.items():
            out.rect(x, 91, 9, 9, fill=color)
            out.text(x + 13, 100, expert, 11, FAINT)
            x += 40
        rows = int((out.height - 130) // 22)
        painted = [(colors[int(e)], 0.36) if int(e) in colors else None for e in top]
        flow_tokens(out, tokens.texts[:600], painted[:600], 16, 112, 410, 12.5, rows)
        left, y = 462.0, 112.0
        out.text(left, 80, "Load by layer and expert", 13, bold=True)
        high, table = float(share.max()) or 1.0, color_table("viridis")
        for i, layer in enumerate(layers):
            bold = i == layer_row
            out.text(
                left - 6, y + row * (i + 0.7), f"L{layer}", 10, INK if bold else FAINT, "end", bold
            )
            for e in range(count):
                v = share[i, e]
                color = css(table[round(255 * v / high)]) if v else "#eceef2"
                gap = 1 if cell > 6 else 0
                out.rect(left + e * cell, y + i * row, cell - gap, row - 1, fill=color)
        out.rect(left - 1, y + layer_row * row - 1, count * cell + 1, row + 1, stroke="#2558c9")
        step = next(s for s in (1, 2, 4, 8, 16, 32, 64) if s * cell >= 16)
        for e in range(0, count, step):
            out.text(left + (e + 0.5) * cell, y - 5, e, 9, FAINT, "middle")
        y += row * len(layers) + 14
        for i in range(100):
            out.rect(left + i * 1.2, y, 1.3, 8, fill=css(table[int(i * 2.55)]))
        out.text(left + 130, y + 8, f"0 to {high:.0%} of a layer's routed tokens", 10, FAINT)
        expert = self.answer_expert(now["layer"], now["expert"])
        words = ", ".join(f"“{text.strip()}” ({i})" for i, _, text in expert["top"][:6])
        note = f"Expert {now['expert']} of layer {now['layer']}: {expert['load']:.0%} of the load"
        out.text(left, y + 32, note, 12, bold=True)
        out.text(left, y + 50, f"Top tokens: {words}"[:84], 10.5, FAINT)
        return out

    def snapshot_image(self):
        return self.drawing().pil()


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
        from gemma4_mlx.tracing.comparison import different_models

        raise different_models(a.model, b.model)
