"""Activation patching: which place of a model carries what two prompts differ by.

Two prompts that differ in what is asked about, a clean one and a corrupt one. One is run, and in
one place its activations are replaced by the other's: does the answer follow? A sweep does so for
every place of a kind. "restore" patches the corrupt run with the clean one, and finds what is
enough to bring the clean answer back; "corrupt" patches the clean run with the corrupt one, and
finds what it cannot do without. After Meng et al., "Locating and Editing Factual Associations in
GPT" (2022), and Heimersheim and Nanda, "How to use and interpret activation patching" (2024).

*What patching the stream leaves out.* On models with per-layer embeddings every layer reads its
token again, and layers that share keys and values read those of an earlier layer. A patched
residual stream therefore still meets the other prompt's in the layers above. ``beside=True``
patches these as well; then patching all positions of one layer gives the other run.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from operator import index
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..arguments import check_model
from ..checkpoints.planner import activation_bytes, cache_bytes
from ..errors import AttributionError, ContextError
from ..generation import engine
from ..generation.memory import RESERVE, free_memory
from ..generation.prefill import CHUNK, Prompt
from ..model.ops import on_cpu
from ..progress import Counter, Steps, Teller
from ..tracing.data.ranges import ranges
from ..tracing.recording.recorder import model_facts
from ..tracing.recording.run import inputs_of
from ..tracing.recording.tokens import tokens_of
from .aligning import correspondence
from .patching import Cell, Pair, Patches
from .sweep_data import DIRECTIONS, OVER, Sweep, open_sweep
from .target import text_of, token_of

METRICS = ("logit", "probability", "log_probability")
#: Rows of a batch at most, if nothing else is said: the patched ones and the one that patches.
ROWS = 16
#: Seconds after which a sweep with a file writes what it has.
SAVE_EVERY = 10.0


def sweep(
    model,
    clean,
    corrupt,
    *,
    over: str = "residual",
    metric: str | Callable = "logit",
    target: int | str | None = None,
    against: int | str | None = None,
    direction: str = "restore",
    positions=None,
    layers: Iterable[int] | None = None,
    indices: Iterable[int] | None = None,
    window: int = 1,
    beside: bool = False,
    align: bool = False,
    batch: int | None = None,
    chunk: int = CHUNK,
    file=None,
    media_features=None,
    progress: bool | Callable[[Steps], None] | None = True,
) -> Sweep:
    """Patch every place of a kind from one prompt into the other, and measure what it does.

    Args:
        model: a loaded model.
        clean, corrupt: two prompts, each what :func:`gemma4_mlx.trace` takes. The metric is that of
            the token after the last one.
        over: what is patched. "residual": the stream that leaves a layer; "attention", "mlp",
            "feedforward": what a layer's attention, dense MLP or whole feed-forward part adds to
            it; "per_layer": a layer's per-layer input; these position by position. "heads": each
            attention head's output; "experts": what each expert adds, its weight included; these
            at all positions together.
        metric: "logit", before the soft cap; "probability"; "log_probability"; of ``target``, less
            that of ``against``. Or a function that makes a number of the logits (V,) float32 of the
            next token, capped as the model's call returns them.
        target, against: tokens, their ids or texts (one token each). By default what the clean
            prompt is most likely followed by, against what the corrupt one is, if that is another.
        direction: "restore" or "corrupt", as the module explains.
        positions: of the prompt that is patched. A slice: each position in it by itself. A list of
            positions (negative: from the end) and spans, as slices: each entry is one patch, so
            ``[slice(0, None)]`` patches everything together. None: as ``over`` says, of those that
            may differ.
        layers: the first layers of the patches; None: all.
        indices: which heads or experts; None: all.
        window: how many layers are patched together, from each of ``layers`` on.
        beside: over "residual", patch what later layers read beside the stream, too.
        align: take prompts of different lengths, and patch where stretches of theirs are the same
            or equally long; see also :func:`.aligning.align`.
        batch: rows computed together, one of which is the prompt that patches. None: as many as
            ``chunk`` and the free memory allow, up to 16.
        chunk: tokens computed at once, of all rows together.
        file: a ``.g4sweep`` file that is written while the sweep runs. If it exists, the sweep
            goes on where it stopped. A metric that is a function is known by its name alone.
        media_features: a dict that keeps encoded pictures and sounds between calls.
        progress: True shows a bar with patches, rate and time left; False nothing; or it is called
            with a :class:`.Steps` (tokens while both prompts are read, then patches) after every
            batch. Ctrl-C, or an exception from it, ends the sweep within a batch; what was measured
            is in ``file``.

    What both prompts begin with is read once, and each patch is computed from about its position
    on. A patch's effect is the metric less that of the same row in an unpatched batch, so that a
    patch that changes no number has an effect of exactly 0. Experts that neither prompt chooses
    are known to have none. Where ``model.intervene`` is in force, the changed model is swept.

    Raises:
        AttributionError: prompts of different lengths without ``align``; a choice, layer, head,
            expert or position that does not exist; a model without experts or per-layer embeddings
            for what is about these; a metric that is no finite number; a file of another sweep; too
            little memory.
        TraceError: text or messages for a model without tokenizer.
        ContextError: a prompt is empty, or longer than the model's context.
        MediaError: a prompt holds media that the model cannot take.
        GenerationError: a token id in a prompt is outside the vocabulary.
        ChatError: messages that the chat template refuses.
    """
    check_model(model, "sweep", AttributionError, " and then two prompts")
    if model.divided:
        model.need_weights("sweep")
    _check_choices(model, over, metric, direction, batch, chunk)
    prompts = [_prompt(model, given) for given in (clean, corrupt)]
    source, base = prompts if direction == "restore" else prompts[::-1]
    places = correspondence(model, base.tokens, source.tokens, align)
    if beside and (over != "residual" or len(source) != len(base)):
        raise AttributionError("beside=True is about the residual stream of prompts of one length")
    different = _first_difference(base, source)
    spans = _spans(positions, over, len(base), places, different)
    layers, indices = _axes(model, over, layers, indices, window)
    first = max(0, min([different, *(a for a, _ in spans), len(base) - 1, len(source) - 1]))
    rows = _rows(model, batch, chunk, max(len(base), len(source)), first, len(base) == len(source))
    tokens = [None if given is None else token_of(model, given) for given in (target, against)]
    empty = Sweep(
        over,
        direction,
        metric if isinstance(metric, str) else getattr(metric, "__name__", "a function"),
        np.full((len(layers), len(indices or (0,)), len(spans)), np.nan, np.float32),
        layers,
        indices,
        spans,
        np.nan,
        np.nan,
        *(tokens_of(model, np.array(p.tokens, np.int32), p.inputs) for p in (base, source)),
        window,
        beside,
        media=tuple(tuple(m.key for m in p.media) for p in (base, source)),
        model=model_facts(model),
        interventions=tuple(map(str, model.interventions)),
    )
    empty = replace(empty, effects=empty.effects.reshape(*map(len, empty.axes.values())))
    mx.eval(model.parameters())  # lazy arrays belong to the thread that made them
    pair = Pair(model, source, base, places, first, chunk, media_features)
    work = _Work(pair, empty, _Metric(model, metric, *tokens), rows, file)
    return work.run(progress)


class _Work:
    """A sweep that is under way."""

    def __init__(self, pair: Pair, empty: Sweep, metric: "_Metric", rows: int, file):
        self.pair, self.metric, self.rows = pair, metric, rows
        self.found, self.file = empty, None if file is None else Path(file)
        self.known = False  # whether target and base are, so that it can be saved

    def run(self, progress) -> Sweep:
        job, saved = engine().submit(self._steps), time.monotonic()
        tell, stopped = Teller(progress), False
        try:
            for event in job.events():
                tell(event)
                if time.monotonic() - saved > SAVE_EVERY:
                    self._save()
                    saved = time.monotonic()
            job.result()
        except KeyboardInterrupt:
            stopped = True
            raise
        finally:
            job.cancel()
            job.wait()
            self._save()
            tell.end(self._left() if stopped else "")
        return self.found

    def _left(self) -> str:
        """What is said of a sweep that was stopped."""
        goes_on = f" The same call goes on from {self.file}." if self.file and self.known else ""
        return f"Stopped after {self.found.done:.0%} of the patches.{goes_on}"

    def _save(self) -> None:
        if self.file is not None and self.known:
            self.found.save(self.file)

    def _steps(self):
        """Generator for the engine: yields Steps."""
        pair, metric = self.pair, self.metric
        hidden = yield from pair.read()
        metric.choose(hidden if self.found.direction == "restore" else hidden[::-1])
        source, base = metric(hidden)
        names = [
            None if token is None else (token, text_of(pair.model, token))
            for token in (metric.target, metric.against)
        ]
        self.found = replace(
            self.found, base=base, source=source, target=names[0], against=names[1]
        )
        if self.file is not None and self.file.exists():
            self._go_on()
        self.known, effects = True, self.found.effects
        waiting, total = self._waiting(), effects.size
        count = Counter("patches", int(np.isfinite(effects).sum()))
        for start, places in waiting.items():
            batches = -(-len(places) // (self.rows - 1))
            size = -(-len(places) // batches)  # all alike, so that few rows stand empty
            before = metric(pair.run(start, size + 1))
            for i in range(0, len(places), size):
                some = places[i : i + size]
                cells = [self._cell(place) for place in some]
                patches = Patches(pair, self.found.over, cells, self.found.beside, size + 1)
                values = metric(pair.run(start, size + 1, patches))
                for place, now, then in zip(some, values[1:], before[1:]):
                    effects[place] = now - then
                yield count(int(np.isfinite(effects).sum()), total)

    def _go_on(self) -> None:
        """Take over what the file holds."""
        earlier = open_sweep(self.file)
        if difference := self.found.difference(earlier):
            raise AttributionError(
                f"{self.file} holds another sweep: {difference}. Give another file, or remove it"
            )
        self.found = replace(self.found, effects=np.array(earlier.effects))

    def _waiting(self) -> dict[int, list[tuple]]:
        """Indices into the effects that are to be measured, by the position to start from; where
        nothing can change, the effect is set to 0."""
        found, pair, waiting = self.found, self.pair, {}
        for place in np.argwhere(np.isnan(found.effects)):
            place = tuple(map(int, place))
            cell = self._cell(place)
            stop, start = cell.span[1], max(cell.span[0], pair.starts[0])
            chosen = pair.chosen.get(cell.layers[0])
            silent = found.over == "experts" and not chosen[cell.index]
            if silent or (pair.places[start:stop] < 0).all():
                found.effects[place] = 0.0
            else:
                waiting.setdefault(pair.start_for(start), []).append(place)
        return dict(sorted(waiting.items()))

    def _cell(self, place: tuple) -> Cell:
        first = self.found.layers[place[0]]
        heads = self.found.indices
        index = None if heads is None else heads[place[1]]
        layers = range(first, first + self.found.window)
        return Cell(layers, index, self.found.spans[place[-1]])


class _Metric:
    """What is measured of the hidden states (rows, H) that the head reads."""

    def __init__(self, model, given: str | Callable, target: int | None, against: int | None):
        self._model, self._given = model, given
        self.target, self.against = target, against

    def choose(self, hidden: mx.array) -> None:
        """Where no tokens were given: the likeliest behind the clean prompt (row 0) against that
        behind the corrupt one (row 1)."""
        if callable(self._given):
            return
        likeliest = self._model.language_model.uncapped(hidden).argmax(axis=-1).tolist()
        if self.target is None:
            self.target = likeliest[0]
            if self.against is None and likeliest[1] != self.target:
                self.against = likeliest[1]
        if self.target == self.against:
            raise AttributionError(
                f"{text_of(self._model, self.target)!r} is compared with itself: give another "
                "token as against="
            )

    def __call__(self, hidden: mx.array) -> list[float]:
        head = self._model.language_model
        if callable(self._given):
            values = [self._called(row) for row in head.head(hidden)]
        else:
            logits = head.uncapped(hidden) if self._given == "logit" else head.head(hidden)
            if self._given != "logit":
                logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            if self._given == "probability":
                logits = mx.exp(logits)
            found = logits[:, self.target]
            values = (found if self.against is None else found - logits[:, self.against]).tolist()
        if not np.isfinite(values).all():
            raise AttributionError(
                f"the metric is not a finite number there but {values}: the logits are not finite, "
                "or the function is not defined for them"
            )
        return values

    def _called(self, logits: mx.array) -> float:
        value = self._given(logits)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise AttributionError(
                f"a metric makes one number of the logits (V,), not a {type(value).__name__}"
            ) from None


def _check_choices(model, over, metric, direction, batch, chunk) -> None:
    for name, given, there in (("over", over, OVER), ("direction", direction, DIRECTIONS)):
        if given not in there:
            raise AttributionError(f"{name}={given!r}; there are {', '.join(map(repr, there))}")
    if not callable(metric) and metric not in METRICS:
        raise AttributionError(
            f"metric={metric!r}; there are {', '.join(map(repr, METRICS))}, or a function of the "
            "logits"
        )
    text = model.config.text
    if over == "experts" and not text.enable_moe_block:
        raise AttributionError("over='experts': this model has no experts; there are its 'heads'")
    if over == "per_layer" and not text.hidden_size_per_layer_input:
        raise AttributionError("over='per_layer': this model has no per-layer embeddings")
    if chunk < 1 or (batch is not None and batch < 2):
        raise AttributionError(
            f"a batch of {batch} rows and a chunk of {chunk} tokens: a batch has the row that "
            "patches and one that is patched, a chunk a token"
        )


def _prompt(model, given) -> Prompt:
    prompt = Prompt.of(model, inputs_of(model, given))
    context = model.config.text.max_position_embeddings
    if len(prompt) > context:
        raise ContextError(
            f"The prompt has {len(prompt):,} tokens, the model's context is {context:,}."
        )
    return prompt


def _first_difference(base: Prompt, source: Prompt) -> int:
    """The first position at which tokens, pictures or sounds differ; 0 if none does."""
    pairs = enumerate(zip(base.tokens, source.tokens))
    begin = next((i for i, (a, b) in pairs if a != b), min(len(base), len(source)))
    starts = [m.start for m in base.media if m not in source.media and m.start < begin]
    begin = min([begin, *starts])
    return 0 if begin == len(base) == len(source) else begin


def _spans(positions, over: str, n: int, places, first: int) -> tuple[tuple[int, int], ...]:
    """(start, stop) of what is patched together."""
    if positions is None:
        if OVER[over] is not None:
            return ((first, n),)
        return tuple((i, i + 1) for i in range(first, n) if places[i] >= 0)
    if isinstance(positions, slice | range):
        chosen = range(n)[positions] if isinstance(positions, slice) else positions
        positions = list(chosen)
    if isinstance(positions, str) or not isinstance(positions, Sequence | np.ndarray):
        positions = [positions]
    found = []
    for given in positions:
        if isinstance(given, slice):
            if given.step not in (None, 1):
                raise AttributionError(f"positions {given}: a span has no step")
            start, stop, _ = given.indices(n)
        else:
            try:
                start = index(given)
            except TypeError:
                raise AttributionError(
                    f"positions={positions!r:.80}: give a slice, or a list of positions and slices"
                ) from None
            start += n if start < 0 else 0
            stop = start + 1
        if not 0 <= start < stop <= n:
            raise AttributionError(
                f"positions {given!r}: the prompt that is patched has {n} tokens, 0 to {n - 1}"
            )
        found.append((start, stop))
    if not found:
        raise AttributionError("positions: none at all")
    return tuple(found)


def _axes(model, over: str, layers, indices, window: int):
    """The layers and the heads or experts to patch. Raises AttributionError."""
    text = model.config.text
    count = text.num_hidden_layers
    if not isinstance(window, int) or not 1 <= window <= count:
        raise AttributionError(f"a window of {window!r} layers: this model has {count}")
    if window > 1 and OVER[over] is not None:
        raise AttributionError(
            f"window={window}: {over} of different layers have nothing in common"
        )
    of_layers = _chosen(layers, count - window + 1, "layer")
    if OVER[over] is None:
        if indices is not None:
            raise AttributionError(f"indices: over={over!r} patches neither heads nor experts")
        return of_layers, None
    of = text.num_attention_heads if over == "heads" else text.num_experts
    return of_layers, _chosen(indices, of, OVER[over])


def _chosen(given, count: int, what: str) -> tuple[int, ...]:
    """Some of ``count`` layers, heads or experts, in order; None: all."""
    if given is None:
        return tuple(range(count))
    try:
        found = sorted({index(i) for i in (given if isinstance(given, Iterable) else [given])})
    except TypeError:
        raise AttributionError(f"{what}s {given!r}: give numbers") from None
    if wrong := [i for i in found if not 0 <= i < count] or not found:
        shown = "none at all" if wrong is True else ranges(wrong)
        raise AttributionError(f"{what}s {shown}: there are {what}s 0 to {count - 1} to begin at")
    return tuple(found)


def _rows(model, batch: int | None, chunk: int, n: int, first: int, aligned: bool) -> int:
    """Rows of a batch that the free memory allows. Raises AttributionError if there are too few."""
    text, itemsize = model.config.text, model.dtype.size
    kv = sum(cache_bytes(text, n, itemsize, None, 64, chunk).values())

    def need(rows: int) -> int:
        at_once = min(chunk, rows * (n - first)) if aligned else rows * (n - first)
        return (rows + 3) * kv + activation_bytes(
            text, max(n, at_once), itemsize, None, at_once, on_cpu()
        )

    free = free_memory() - RESERVE
    most = batch or max(2, min(ROWS, chunk // max(1, n - first)))
    fitting = next((rows for rows in range(most, 1, -1) if need(rows) <= free), 0)
    if fitting and (batch is None or fitting == batch):
        return fitting
    advice = f"batch={fitting} would fit" if fitting else "give shorter prompts"
    raise AttributionError(
        f"a batch of {most} rows of {n:,} tokens needs {need(most) / 1e9:.2f} GB more memory, and "
        f"{max(0, free) / 1e9:.2f} GB can be used without swapping: {advice}"
    )
