"""The model of rank 0: what it computes, the other machines compute with it, on their parts.

Every run of the model is announced first, with the tokens and soft tokens that it reads; so is
whatever is done to a cache, whose parts the others keep. An observer sees whole values, and what an
intervention puts in a value's place is sent to all.
"""

import weakref
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from ..errors import CheckpointError, ClusterError
from ..model.cache import FullKVCache, SlidingKVCache
from ..model.gemma4 import Model
from ..model.parallel import refuse_tracing
from ..model.stages import Stages
from ..model.taps import Tap, Taps, untouched
from .messages import Message

if TYPE_CHECKING:
    from .leader import Cluster

_numbers = count(1)


class LedTaps(Taps):
    """Taps during whose use other machines wait.

    What an observer raises is kept until the run is over, which the others cannot leave early, and
    nothing is observed meanwhile.
    """

    def __init__(self, cluster: "Cluster", stages: Stages | None):
        super().__init__()
        self._cluster, self._stages = cluster, stages
        self.raised: BaseException | None = None

    def at(self, layer: int | None = None, watched: bool = True) -> Tap:
        tap = super().at(layer, watched)
        if tap is untouched or self._cluster.together.alone:
            return tap
        return partial(self._all, tap, layer)

    def _all(
        self, tap: Tap, layer: int | None, name: str, value: mx.array, geometry=None
    ) -> mx.array:
        seen = value
        if self.raised is None:
            try:
                with self._cluster.together.aside():
                    seen = tap(name, value, geometry)
            except BaseException as error:
                self.raised = error
        if self.interventions:
            arrays = {} if seen is value else {"value": seen}
            changes = geometry.changes if name == "queries" else []
            heads = [list(change.heads) for change in changes]
            for i, change in enumerate(changes):
                at = geometry.query_start, geometry.key_start
                arrays[f"queries{i}"] = _bools(change.queries, at[0], geometry.n)
                arrays[f"keys{i}"] = _bools(change.keys, at[1], geometry.m)
            amounts = [float(change.amount) for change in changes]
            values = {"heads": heads, "amounts": amounts}
            # A stage's layer is at one machine, everything else at all.
            staged = self._stages is not None and layer is not None
            only = self._stages.owner(layer) if staged else None
            self._cluster.tell(Message("tap", values, arrays), only)
        return seen


def _bools(positions: Callable, start: int, length: int) -> mx.array:
    return mx.array(np.asarray(positions(start, start + length)))


class _Part:
    """An entry of a cache whose other parts are on other machines: what happens to it is told."""

    cluster: "Cluster"
    key: list  # the cache's number, the entry's

    def _tell(self, what: str, *arguments, **arrays) -> None:
        self.cluster.tell(Message(what, {"key": self.key, "arguments": arguments}, arrays))

    def copies(self, other: "_Part") -> None:
        """This entry has become a copy of another."""
        self._tell("copy", other.key)


class _Rewinds(_Part):
    def rewind(self, position: int) -> bool:
        moved = position != self.offset
        done = super().rewind(position)
        if done and moved:
            self._tell("rewind", position)
        return done


class FullPart(_Rewinds, FullKVCache):
    """:class:`FullKVCache` with some of the heads."""


class SlidingPart(_Rewinds, SlidingKVCache):
    """:class:`SlidingKVCache` with some of the heads."""

    def stretch(self, first: int, last: int, before: dict | None = None) -> dict | None:
        made = super().stretch(first, last, before)
        if made is not None:
            made["copy"] = _Copy(self.cluster)
            known = before and [before["copy"].number, before["offset"]]
            self._tell("stretch", first, last, known, made["copy"].number)
        return made

    def restore(self, snapshot: dict) -> None:
        super().restore(snapshot)
        self._tell("restore", snapshot["copy"].number, snapshot["offset"])


class _Copy:
    """What the others keep of a snapshot, for as long as this object lives."""

    def __init__(self, cluster: "Cluster"):
        self.number = next(_numbers)
        weakref.finalize(self, cluster.forget, "copies", self.number)


class LedModel(Model):
    """A :class:`Model` with rank 0's part of the weights."""

    @classmethod
    def of(cls, model: Model, cluster: "Cluster") -> "LedModel":
        """Make ``model`` one."""
        model.__class__ = cls
        model.cluster, model.number = cluster, next(_numbers)
        stages = getattr(model.language_model.model, "stages", None)
        object.__setattr__(model, "_taps", LedTaps(cluster, stages))
        for module in model.modules():
            if hasattr(module, "logits_of"):
                module.model_number = model.number
        weakref.finalize(model, cluster.forget, "models", model.number)
        return model

    def hidden(self, tokens, cache=None, features=None, input_embeddings=None) -> mx.array:
        """As :meth:`Model.hidden`, computed by all machines. Raises ClusterError if one is lost."""
        run = super().hidden
        return self._run("hidden", run, tokens, cache, features, input_embeddings)

    def read(self, tokens, cache, features=None) -> None:
        """As :meth:`Model.read`, computed by all machines. Raises ClusterError if one is lost."""
        self._run("read", super().read, tokens, cache, features)

    def _run(self, what: str, run: Callable, tokens, cache, features, embeddings=None):
        arrays = {"tokens": tokens}
        if features is not None:
            arrays["features"] = features
        if embeddings is not None:
            arrays["input_embeddings"] = embeddings
        refuse_tracing(*arrays.values())
        if features is not None:
            self._soft_places(features, tokens)
        self._check_per_layer_ids(self.per_layer_tokens(tokens))
        values = {
            "model": self.number,
            "cache": _number(cache),
            "offsets": [entry.offset for entry in cache or ()],
            "watched": self._taps.active,
            "changed": bool(self._taps.interventions),
        }
        given = {name: value for name, value in arrays.items() if name != "tokens"}
        with self.cluster.running(Message(what, values, arrays), self._taps):
            return run(tokens, cache, **given)

    @property
    def divided(self) -> bool:
        """Whether other machines have parts of it."""
        return True

    def need_weights(self, what: str) -> None:
        """Raises CheckpointError, for ``what`` uses weights that other machines have."""
        raise CheckpointError(f"{what} needs all weights here: load the model without cluster=")

    def make_cache(self, *, kv_bits=None, kv_group_size=64, left_padding=None) -> list:
        """As :meth:`Model.make_cache`; each machine keeps the heads that it has."""
        how = dict(kv_bits=kv_bits, kv_group_size=kv_group_size, left_padding=left_padding)
        entries, number = super().make_cache(**how), next(_numbers)
        for i, entry in enumerate(entries):
            entry.__class__ = _part_of(type(entry))
            entry.cluster, entry.key = self.cluster, [number, i]
            weakref.finalize(entry, self.cluster.forget, "entries", entry.key)
        self.cluster.tell(Message("cache", {"model": self.number, "number": number, "how": how}))
        return entries


def _part_of(kind: type) -> type:
    """The class of an entry of a kind, with some of the heads."""
    if kind in (FullKVCache, SlidingKVCache):
        return FullPart if kind is FullKVCache else SlidingPart
    return _quantized_part(kind)


_made: dict[type, type] = {}


def _quantized_part(kind: type) -> type:
    """The same of mlx-lm's quantized cache, imported when there is one."""
    if kind not in _made:

        class QuantizedPart(_Part, kind):
            def trim(self, n: int) -> int:
                n = super().trim(n)
                if n:
                    self._tell("trim", n)
                return n

        _made[kind] = QuantizedPart
    return _made[kind]


def _number(cache: list | None) -> int | None:
    """The number of a whole cache. Raises ClusterError for what is none."""
    if not cache:
        return None
    keys = [getattr(entry, "key", None) for entry in cache]
    if None in keys or keys != [[keys[0][0], i] for i in range(len(keys))]:
        raise ClusterError(
            "a model on several machines takes a cache of its own make_cache(), all of it"
        )
    return keys[0][0]
