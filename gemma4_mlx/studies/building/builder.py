"""Reads documents with one model, and adds what its experts did to an atlas."""

import mlx.core as mx

from ...arguments import check_model
from ...errors import ChatError, ContextError, GenerationError, MediaError, StudyError
from ...generation import engine
from ..data.atlas import Atlas
from ..data.counts import Subject
from ..data.pieces import Piece
from . import sources
from .reading import Known, cut, prepared, read
from .writing import promoted_tokens

#: Tokens of a piece: what the model reads at once, and all that it sees of the document.
CONTEXT = 2048
#: A document of more tokens counts as several, so that the memory of one is bounded.
LONGEST = 1 << 16
_UNREADABLE = (ChatError, ContextError, GenerationError, MediaError)


class Builder:
    """Reads documents with one model.

    Raises StudyError for a model without experts, and numbers that make no sense.
    """

    def __init__(self, model, context: int = CONTEXT, answers: int = 0):
        check_model(model, "atlas", StudyError, " and then corpora")
        text = model.config.text
        if not text.enable_moe_block:
            raise StudyError(
                f"{model.source or 'this model'} has no experts, so there is no atlas of them; "
                "what its heads do over texts, gemma4_mlx.head_roles(model, documents) says"
            )
        if not 32 <= context <= text.max_position_embeddings:
            raise StudyError(
                f"pieces of {context} tokens; give 32 to {text.max_position_embeddings:,}, this "
                "model's context"
            )
        if answers < 0:
            raise StudyError(f"answers of {answers} tokens; give a number from 0 on")
        self.model, self.context, self.answers = model, context, answers
        self.known = Known.of(model)
        self.subject = Subject(
            model.fingerprint,
            tuple(range(text.num_hidden_layers)),
            text.num_experts,
            text.top_k_experts,
            text.vocab_size,
            text.hidden_size,
            tuple(map(str, model.interventions)),
        )
        mx.eval(model.parameters())  # lazy arrays belong to the thread that made them

    def length(self, document) -> int:
        """Tokens that a document will count, its answer left out; 0 if it cannot be read."""
        try:
            inputs = prepared(self.model, document, 0)
        except _UNREADABLE:
            return 0
        bos = self.model.config.text.bos_token_id
        return sum(map(len, cut(inputs, self.context, bos)))

    def add(self, atlas: Atlas, label: str, documents: list[tuple[int, object]]) -> None:
        """Read some documents, with their numbers, and count them; if that is interrupted, none of
        them is counted."""
        job = engine().submit(self._add, atlas, label, documents)
        for _ in job.events():
            pass
        job.result()

    def _add(self, atlas: Atlas, label: str, documents: list[tuple[int, object]]):
        """Generator for the engine. What follows the last yield is not interrupted."""
        bos, given, every, parts = self.model.config.text.bos_token_id, [], [], []
        for _, document in documents:
            try:
                given.append(prepared(self.model, document, self.answers))
            except _UNREADABLE as error:
                given.append(error)
        for inputs in given:
            pieces = [] if isinstance(inputs, Exception) else list(cut(inputs, self.context, bos))
            parts.append(slice(len(every), len(every) + len(pieces)))
            every += pieces
        found = yield from read(self.model, every, self.known)
        counted: list[list[Piece]] = []
        for (number, document), inputs, part in zip(documents, given, parts):
            where = f"document {number} of {label!r}"
            if isinstance(inputs, Exception):
                atlas.remark(label, f"{where} cannot be read ({inputs}): skipped")
            else:
                said = f"{where} has {len(inputs):,} tokens"
                counted += self._units(atlas, label, said, found[part])
            atlas.count_read(label, number, [number, sources.digest(document)])
        if counted:
            atlas.add(label, *counted)

    def _units(self, atlas: Atlas, label: str, said: str, pieces: list[Piece]) -> list[list[Piece]]:
        """A document's pieces, of a very long one as several documents; and a remark on that."""
        units: list[list[Piece]] = [[]]
        for piece in pieces:
            if sum(made.trace.n for made in units[-1]) + piece.trace.n > LONGEST:
                units.append([])
            units[-1].append(piece)
        if len(pieces) > 1:
            said += f": read in {len(pieces)} pieces of {self.context:,}"
            atlas.remark(label, said + (f", counted as {len(units)}" if len(units) > 1 else ""))
        return units

    def finish(self, atlas: Atlas) -> None:
        """What is worked out of the sums at the end: texts, and what experts write."""
        tokenizer, seen = self.model.tokenizer, 0
        for name in ("input_seen", "next_seen", "predicted_seen"):
            seen = seen + atlas.counts[name]
        atlas.promoted, atlas.suppressed = engine().run(promoted_tokens, self.model, atlas.counts)
        ids = {*seen.nonzero()[0].tolist(), *atlas.promoted.ravel().tolist()}
        for id in ids | {*atlas.suppressed.ravel().tolist()}:
            if tokenizer is not None and id >= 0 and id not in atlas.texts:
                atlas.texts[id] = tokenizer.token_text(id)
