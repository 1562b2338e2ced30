"""Both prompts of a sweep side by side, as rows of one batch, of which one patches the others.

Row 0 of a batch is the prompt that patches, and every other row is the prompt that is patched. At
the tap that a patch is about, a row takes over what row 0 holds there: nothing is kept of a run,
whatever is patched. What both prompts begin with is read once. What each of them holds in its cache
at some later positions is kept, so that a row is only computed from its patch on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..generation.prefill import Prompt, SoftTokens
from ..progress import Counter

#: A row is computed from the last of so many evenly spaced places before its patch.
RESTARTS = 8
#: What is patched -> its tap.
TAPS = {
    "residual": "layer_output",
    "attention": "attention_output",
    "mlp": "mlp_output",
    "feedforward": "feedforward_output",
    "per_layer": "per_layer_input",
    "heads": "head_outputs",
    "experts": "expert_outputs",
}


@dataclass(frozen=True)
class Cell:
    """One patch: some layers, a head or expert, and a span (start, stop) of the patched prompt."""

    layers: range
    index: int | None
    span: tuple[int, int]


class Pair:
    """Two prompts that are computed in one batch.

    Args:
        source, base: the prompt that patches, and the one that is patched.
        places: for each position of ``base`` the one of ``source`` that stands for it, -1 for none.
        first: the first position that is looked at; both prompts are the same before.
        chunk: tokens computed at once, of all rows together. Prompts of different lengths are
            computed at once from ``first`` on.
        media_features: a dict that keeps encoded pictures and sounds.

    Attributes:
        starts: positions from which rows can be computed.
        chosen: by layer, which experts one of the prompts chose, bool (E,), once :meth:`read` ran.
    """

    def __init__(
        self,
        model,
        source: Prompt,
        base: Prompt,
        places: np.ndarray,
        first: int,
        chunk: int,
        media_features,
    ):
        self.model, self._prompts, self.places = model, (source, base), places
        self._chunk = chunk
        self.n, self._aligned = max(len(source), len(base)), len(source) == len(base)
        self._soft = [SoftTokens(model, prompt, 0, media_features) for prompt in self._prompts]
        first = self._outside(first)
        self.starts = [first]
        if self._aligned:
            step = max(1, -(-(self.n - first) // RESTARTS))
            every = {self._outside(at) for at in range(first + step, self.n, step)}
            self.starts = sorted({first, *every})
        self._kept: dict[int, list] = {}  # by start, of each entry: arrays (2, kv heads, m, D)
        self.chosen: dict[int, np.ndarray] = {}

    def start_for(self, position: int) -> int:
        """The last of the ``starts`` that is not behind a position."""
        return max(start for start in self.starts if start <= max(position, self.starts[0]))

    def read(self):
        """Generator: read both prompts, yielding Steps after each chunk; returns the hidden
        states (2, H) at their last position, after the final norm."""
        cache, first, count = self.model.make_cache(), self.starts[0], Counter("tokens")
        for start, stop in self._pieces(0, first, 1):
            tokens = mx.array(self._prompts[0].tokens[start:stop])[None]
            self.model.read(tokens, cache, self._soft[0].between(start, stop))
            mx.eval([entry.state for entry in cache])
            mx.clear_cache()
            yield count(stop, self.n)
        self._keep(first, cache)
        cache = self._cache(first, 2)
        with self.model.observe(self._note_experts):
            for start, stop in zip(self.starts, [*self.starts[1:], self.n]):
                hidden = self._hidden(cache, start, stop, 2)
                self._keep(stop, cache)
                yield count(stop, self.n)
        # Full layers' keys and values at a start are the beginning of those at the end.
        end = self._kept.pop(self.n)
        for start in self.starts:
            for entry, kept, last in zip(cache, self._kept[start], end):
                if entry.snapshot() is None:
                    kept[:] = [x[..., :start, :] for x in last]
        return hidden

    def run(self, start: int, rows: int, patch: "Patches | None" = None) -> mx.array:
        """Hidden states (rows, H) at the last position of each row, computed from ``start`` on."""
        cache, interventions = self._cache(start, rows), () if patch is None else (patch,)
        with self.model.intervene(*interventions):
            return self._hidden(cache, start, self.n, rows)

    def _hidden(self, cache: list, start: int, stop: int, rows: int) -> mx.array:
        for at, end in self._pieces(start, stop, rows):
            tokens = [self._tokens(prompt, at, end) for prompt in self._prompts]
            tokens = [tokens[0]] + [tokens[1]] * (rows - 1)
            features = [soft.between(at, end) for soft in self._soft]
            features = [x for x in (features[0], *[features[1]] * (rows - 1)) if x is not None]
            features = mx.concatenate(features) if features else None
            hidden = self.model.hidden(mx.array(tokens), cache, features)
            mx.eval(hidden, [entry.state for entry in cache])
            mx.clear_cache()
        last = [len(prompt) - 1 - at for prompt in self._prompts]
        # Before the prompts' end that is any row of the piece; nobody looks at it.
        last = [min(max(i, 0), end - at - 1) for i in last]
        hidden = mx.concatenate([hidden[:1, last[0]], hidden[1:, last[1]]])
        mx.eval(hidden)
        return hidden

    def _tokens(self, prompt: Prompt, start: int, stop: int) -> list[int]:
        """Ids of some positions; behind the end padding, which nothing before it sees."""
        ids = prompt.tokens[start:stop]
        return ids + [self.model.config.text.pad_token_id] * (stop - start - len(ids))

    def _pieces(self, start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
        """(start, stop) of what is computed at once; never inside a picture."""
        size = max(1, self._chunk // rows) if self._aligned or stop <= self.starts[0] else stop
        while start < stop:
            end = min(start + size, stop)
            cut = self._outside(end)
            if cut <= start:  # a picture that is longer
                cut = end
                while inside := self._picture(cut):
                    cut = inside[1]
            yield start, min(cut, stop)
            start = cut

    def _outside(self, position: int) -> int:
        """The position, or where the picture begins that it would cut in one of the prompts."""
        while inside := self._picture(position):
            position = inside[0]
        return position

    def _picture(self, position: int) -> tuple[int, int] | None:
        """The picture that a cut before a position would go through."""
        for prompt in self._prompts:
            found = prompt.picture(position)
            if found is not None and found[0] < position:
                return found
        return None

    def _keep(self, start: int, cache: list) -> None:
        """Keep what the entries hold at a position; of full layers only at the end."""
        self._kept[start] = []
        for entry in cache:
            kept = entry.snapshot()
            if kept is None:
                kept = {"state": list(entry.state) if start in (self.starts[0], self.n) else []}
            self._kept[start].append(list(kept["state"]))
        mx.eval(self._kept[start])

    def _cache(self, start: int, rows: int) -> list:
        """A cache that holds the prompts up to ``start``: row 0 the one that patches."""
        cache = self.model.make_cache()
        for entry, kept in zip(cache, self._kept[start]):
            entry.state = [
                mx.concatenate([x[:1], mx.broadcast_to(x[-1:], (rows - 1, *x.shape[1:]))])
                for x in kept
            ]
            entry.offset = start
        return cache

    def _note_experts(self, name, layer, value, geometry) -> None:
        if name == "expert_indices":
            experts = np.unique(np.array(value))
            found = self.chosen.setdefault(
                layer, np.zeros(self.model.config.text.num_experts, bool)
            )
            found[experts] = True


class Patches:
    """An intervention by which each row of a batch but the first takes over what row 0 holds.

    Args:
        pair: the prompts.
        over: what is patched.
        cells: of row 1, row 2, ...; rows beyond them stay as they are.
        beside: patch what later layers read beside the stream, too: their per-layer inputs, and the
            keys and values that they share with a layer before the patch.
        rows: of the batch.
    """

    def __init__(self, pair: Pair, over: str, cells: Sequence[Cell], beside: bool, rows: int):
        self._text, self._places = pair.model.config.text, pair.places
        self._tap, self._cells, self._beside = TAPS[over], cells, beside
        self._rows, self._start, self._chosen = rows, 0, {}
        self.key = f"sweep over {over}"

    def observer(self, model):
        return self._see

    def _see(self, name, layer, value, geometry) -> mx.array | None:
        if geometry is not None:
            self._start = geometry.query_start
        if self._tap == "expert_outputs" and name in ("expert_indices", "expert_weights"):
            self._chosen[name] = value
        if name == self._tap:
            rows = [layer in cell.layers for cell in self._cells]
        elif self._beside and name in ("per_layer_input", "keys", "values"):
            shares = name == "per_layer_input" or layer >= self._text.first_kv_shared_layer
            donor = layer if name == "per_layer_input" else self._text.kv_donor(layer)
            rows = [
                shares and layer > cell.layers[-1] and (donor == layer or donor <= cell.layers[-1])
                for cell in self._cells
            ]
        else:
            return None
        if not any(rows):
            return None
        by_head = name in ("head_outputs", "keys", "values")  # (B, heads, n, D)
        start = geometry.key_start if name in ("keys", "values") else self._start
        n = value.shape[2 if by_head else 1]
        where, places = self._where(rows, start, n)
        if not where.any():
            return None
        where = mx.array(where)
        if by_head:
            there = value[:1, :, places]
            heads = self._indices(value.shape[1]) if name == "head_outputs" else None
            where = where[:, None, :, None]
            if heads is not None:
                where = where & heads[:, :, None, None]
            return mx.where(where, there, value)
        if name == "expert_outputs":
            return self._experts(value, where, places)
        return mx.where(where[..., None], value[:1, places], value)

    def _where(self, rows: list[bool], start: int, n: int) -> tuple[np.ndarray, mx.array]:
        """Which rows take over which of n positions from ``start`` on, bool (B, n), and where row 0
        has what they take over, (n,)."""
        at = np.arange(start, start + n)
        places = np.full(n, -1)
        real = at < len(self._places)
        places[real] = self._places[at[real]]
        found = np.zeros((self._rows, n), bool)
        for r, cell in enumerate(self._cells):
            if rows[r]:
                found[r + 1] = (at >= cell.span[0]) & (at < cell.span[1])
        found &= places >= 0
        return found, mx.array(np.where(places < 0, 0, places - start))

    def _indices(self, count: int) -> mx.array:
        """Which of ``count`` heads each row is about: bool (B, count)."""
        found = np.zeros((self._rows, count), bool)
        for r, cell in enumerate(self._cells):
            found[r + 1, cell.index] = True
        return mx.array(found)

    def _experts(self, outputs: mx.array, where: mx.array, places: mx.array) -> mx.array:
        """Expert outputs (B, n, k, H) whose weighted sum has one expert's part from row 0.

        An expert that was not chosen has no output that could be replaced, so what its part differs
        by goes to the output with the greatest weight.
        """
        experts, weights = self._chosen["expert_indices"], self._chosen["expert_weights"]
        wanted = np.full(self._rows, -1)
        wanted[1 : len(self._cells) + 1] = [cell.index for cell in self._cells]
        wanted = mx.array(wanted)[:, None, None]

        def part(of: slice, at=slice(None)) -> mx.array:  # (B, n, H) float32
            mine = (experts[of][:, at] == wanted) * weights[of][:, at].astype(mx.float32)
            return (mine[..., None] * outputs[of][:, at]).sum(axis=2)

        more = mx.where(where[..., None], part(slice(0, 1), places) - part(slice(None)), 0)
        greatest = mx.abs(weights).argmax(axis=-1, keepdims=True)  # (B, n, 1)
        weight = mx.take_along_axis(weights, greatest, axis=-1).astype(mx.float32)
        more = more / mx.where(weight == 0, 1, weight)  # 0: nothing was and nothing can be added
        slots = mx.arange(weights.shape[-1]) == greatest
        more = mx.where(slots[..., None], more[:, :, None], 0).astype(outputs.dtype)
        return outputs + more
