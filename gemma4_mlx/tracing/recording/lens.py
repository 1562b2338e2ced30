"""Records the logit lens: applies the final norm and the output head to each layer's output."""

import mlx.core as mx
import numpy as np

from ...errors import TraceError
from ..data.lens import LensData
from .plans import LensPlan

#: Logits held at once.
LOGITS = 1 << 24


class LensRecorder:
    """Records the likeliest next tokens of each chosen layer.

    The probability of the actual next token is recorded too. For a chunk's last position that token
    comes with the next chunk, so its hidden state is kept until then.
    """

    TAPS = ("layer_output",)

    def __init__(self, model, plan: LensPlan):
        self.plan, self.layers = plan, plan.chosen_layers(model)
        self.top = min(plan.top, model.config.text.vocab_size)
        self.language_model = model.language_model
        self.vocabulary = model.config.text.vocab_size
        self._seen = 0
        self._waiting: dict[int, mx.array] = {}
        self._found: dict[int, list] = {layer: [] for layer in self.layers}

    def observe(self, layer: int, value: mx.array, ids: np.ndarray) -> None:
        """``value`` (1, n, H) belongs to the last n of ``ids``."""
        if layer not in self._found:
            return
        hidden, first = value[0], len(ids) - value.shape[1]
        if layer in self._waiting:
            hidden, first = mx.concatenate([self._waiting[layer], hidden]), first - 1
        self._waiting[layer] = mx.contiguous(hidden[-1:])
        mx.eval(self._waiting[layer])
        self._seen = len(ids)
        self._guess(layer, hidden[:-1], first, ids[first + 1 :])

    def _guess(self, layer: int, hidden: mx.array, first: int, following: np.ndarray | None):
        positions = np.arange(first, first + hidden.shape[0])
        if self.plan.positions is not None:
            chosen = np.isin(positions, self.plan.positions)
            positions, hidden = positions[chosen], hidden[mx.array(np.flatnonzero(chosen))]
            following = None if following is None else following[chosen]
        rows = max(1, LOGITS // self.vocabulary)
        for start in range(0, len(positions), rows):
            part = slice(start, start + rows)
            logits = self.language_model.head(self.language_model.model.norm(hidden[part]))
            log_p = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            best = mx.argpartition(-log_p, self.top - 1, axis=-1)[:, : self.top]
            values = mx.take_along_axis(log_p, best, axis=-1)
            order = mx.argsort(-values, axis=-1)
            best = mx.take_along_axis(best, order, axis=-1)
            values = mx.exp(mx.take_along_axis(values, order, axis=-1))
            if following is None:
                after = mx.full((log_p.shape[0],), float("nan"))
            else:
                index = mx.array(following[part].astype(np.int32))[:, None]
                after = mx.exp(mx.take_along_axis(log_p, index, axis=-1)[:, 0])
            mx.eval(best, values, after)
            self._found[layer].append(
                (
                    positions[part],
                    np.array(best).astype(np.int32),
                    np.array(values),
                    np.array(after),
                )
            )

    def result(self, model) -> LensData:
        """What was found so far.

        Raises TraceError if the run reached none of the plan's positions.
        """
        found = {layer: list(parts) for layer, parts in self._found.items()}
        for layer, hidden in self._waiting.items():
            self._guess(layer, hidden, self._seen - 1, None)
        if not self._found[self.layers[0]]:
            raise TraceError(
                f"the lens was to look at positions {self.plan.positions}; the run had "
                f"{self._seen} tokens"
            )
        parts = [[np.concatenate(x) for x in zip(*self._found[i])] for i in self.layers]
        self._found = found  # the run may go on
        positions = parts[0][0]
        ids, probabilities, after = (np.stack([p[j] for p in parts]) for j in (1, 2, 3))
        known = np.unique(ids).tolist()
        tokenizer = model.tokenizer
        texts = {i: f"<{i}>" if tokenizer is None else tokenizer.token_text(i) for i in known}
        return LensData(self.layers, positions, ids, probabilities, after, texts)
