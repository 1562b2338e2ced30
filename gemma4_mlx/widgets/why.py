"""``Why(chat)``: point at a token of the answer and see what spoke for it, and what against it.

The text before it takes the colours of what its tokens gave, a picture those of its patches, a
sound those of its frames. Beside it stand the parts of the model, each with a button that takes it
away and answers again. Everything shown is an attribution
(:mod:`gemma4_mlx.attribution`), which ``why.attribution`` gives to the next cell.

The view asks for one explanation at a time. What it asked for before and does not wait for any
more ends at the next chunk of the prompt; what is done is kept.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from ..errors import AttributionError
from .explaining import Explaining, Question, drawn_beside
from .jobs import Jobs
from .traceview import PAGE, TraceView, media_of, parts_of

if TYPE_CHECKING:
    from ..attribution import Attribution

#: How a view finds shares; the first is the one to begin with. Patching takes another prompt.
METHODS = ("gradient", "direct", "integrated")
KEPT = 64  # explanations and other results that a view keeps
SNAPSHOT_PAGES = 16  # pages of 512 tokens that a snapshot keeps
CHECKED = 10  # largest parts that a check removes


class Superseded(Exception):
    """Another explanation is wanted now."""


class Why(TraceView):
    """Explain the tokens of an answer.

    Args:
        source: a chat, whose last answer is explained; a ``Prompt`` widget, whose token view then
            asks here why a token came and not another one; or an attribution, which may come from
            a file
        target, against, position: the question to begin with, as of :func:`gemma4_mlx.attribute`;
            by default why the answer's first token came
        method: how shares are found; None: the first of the methods that the view offers
        trace: a trace of the same conversation, whose selection is shared with its other views
        model: the model of an attribution, to ask other questions of the same conversation
        inputs: the ``ModelInputs`` or chat of an attribution whose prompt has pictures or sound

    The selected token, layer, head and expert are ``trace.selection``'s, both ways: a token of the
    answer selected in another view is explained here; a head or an expert chosen here is shown
    there, at the token from which the explained one was predicted.

    Raises TypeError for another source, AttributionError for a question that cannot be asked,
    TraceError for a trace of other tokens, and for missing or other ``inputs``.

    >>> view = Why(chat, target="2", against="9")   # doctest: +SKIP
    >>> view.attribution.top(3)   # what the view shows, as a value   # doctest: +SKIP
    """

    front = "why"

    #: What is asked: ``{position, target, against, method, stop}``, tokens by ids or None.
    question = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        source: Any,
        target: int | str | None = None,
        *,
        against: int | str | None = None,
        position: int | None = None,
        method: str | None = None,
        trace: Any = None,
        model: Any = None,
        inputs: Any = None,
    ) -> None:
        from ..attribution import Attribution

        self._jobs, self._given, self._told = Jobs(keep=KEPT), None, None
        self._wanted: Question | None = None  # what the view waits for
        self._held: list[Question] = []  # what somebody else waits for
        prompt = source if hasattr(source, "explain_in") else None
        if isinstance(source, Attribution):
            self._given = source if source.tokens is not None else _without_text(source)
            if model is not None:
                self._told = Explaining.of_attribution(self._given, model, inputs)
        else:
            chat = prompt.chat if prompt is not None else source
            if not hasattr(chat, "messages"):
                raise TypeError(
                    "Why explains a chat, a Prompt widget or an attribution of "
                    f"g4.attribute(...), not {type(source).__name__}"
                )
            self._told = Explaining.of_chat(chat)
        if trace is not None and list(trace.tokens.ids) != list(self.trace_of().tokens.ids):
            raise AttributionError(
                "this trace has other tokens than what is explained: trace the same conversation, "
                "with chat.trace()"
            )
        self.set_sources("a", self.trace_of() if trace is None else trace, None)
        super().__init__()
        self.question = self._first(target, against, position, method).as_dict()
        self.meta = self._facts()
        self.link(self._selection(trace))
        if prompt is not None:
            self._chat = prompt.chat
            prompt.explain_in(self)

    @staticmethod
    def _selection(trace):
        from ..tracing.data.selection import Selection

        return Selection() if trace is None else trace.selection

    def trace_of(self, which: str = "a"):
        """What has the tokens: the conversation, or an attribution that stands alone."""
        return self._given if self._told is None else self._told

    # ---- what is asked --------------------------------------------------------------------------

    @property
    def methods(self) -> tuple[str, ...]:
        """How shares can be found here."""
        if self._told is None:
            return (self._given.method,)
        return METHODS

    def _first(self, target, against, position, method) -> Question:
        """The question to begin with. Raises AttributionError as ``attribute`` does."""
        given = self._given
        if given is not None and target is against is position is method is None:
            return self._of_given()
        if self._told is None:
            raise AttributionError(
                "another question takes the model: Why(attribution, model=model, ...)"
            )
        return self._told.question(target, against, position, method or self.methods[0])

    def explain(self, target=None, *, against=None, position=None, method=None) -> Attribution:
        """Ask another question, as of :func:`gemma4_mlx.attribute`, and show the answer.

        Raises AttributionError for a question that cannot be asked, and without the model.
        """
        method = method or self.question["method"]
        self.question = self._first(target, against, position, method).as_dict()
        return self.attribution

    def explain_all(self) -> None:
        """Explain every token of the answer, so that a snapshot has them all."""
        start, stop = self.meta["answer"]
        for position in range(start, min(stop, start + KEPT // 2)):
            self._explained(Question(position, None, None, self.question["method"]))

    @property
    def attribution(self) -> Attribution:
        """What the view shows, as a value; computed now if it is not there.

        Raises what :func:`gemma4_mlx.attribute` raises.
        """
        return self._explained(Question(**self.question))

    def show_written(self, before, written: list[int], thinking, at: int, against) -> None:
        """Explain token ``at`` of an answer that the model wrote after the messages ``before``;
        ``against``: the id of another token, or None. A ``Prompt`` widget calls this."""
        told = Explaining.of_written(self._chat, before, written, thinking)
        question = Question(told.start + at, written[at], against, self.question["method"])
        with self.hold_sync():
            if list(told.inputs.tokens) != list(self._told.inputs.tokens):
                self._told, self._given, self._jobs = told, None, Jobs(keep=KEPT)
                self.set_sources("a", told, None)
                self.meta = self._facts()
            self.question = question.as_dict()

    def _known(self, question: Question) -> tuple:
        """The name under which an explanation is kept: the same however its token was given."""
        ids = self.trace_of().tokens.ids
        named = question.target
        if named is None and question.stop is None and question.position < len(ids):
            named = int(ids[question.position])
        return ("explain", *replace(question, target=named).as_dict().values())

    # ---- what is told ---------------------------------------------------------------------------

    def _facts(self) -> dict:
        tokens, told = self.trace_of().tokens, self._told
        given, n = self._given, len(tokens)
        start = given.position if told is None else told.start
        facts = given.model if told is None else {"source": told.model.source}
        return {
            "n": n,
            "parts": parts_of(tokens),
            "media": media_of(tokens),
            "answer": [start, given.stop if told is None else told.stop],
            "source": str(facts.get("source") or ""),
            "methods": list(self.methods),
            "live": told is not None,
            "checked": CHECKED,
            "revision": self.meta.get("revision", -1) + 1,
        }

    def answer_row(self) -> Any:
        """The answer's tokens with their probabilities and the likeliest others; or how far that
        is, ``{"running": share}``: ask again. See :meth:`.Explaining.answer`."""
        if self._told is None:
            given = self._given
            return [[text, id, None, []] for id, text in [given.target]]
        return self._jobs.poll(("row",), self._told.answer)

    def answer_token(self, text: str) -> dict:
        """A token by its text or number. Raises AttributionError if it is not one token."""
        if self._told is None:
            raise AttributionError("another token takes the model: Why(attribution, model=model)")
        return self._told.token(text)

    def answer_explain(
        self,
        position: int,
        method: str,
        target: int | None = None,
        against: int | None = None,
        stop: int | None = None,
    ) -> Any:
        """An explanation; or how far it is, ``{"running": share}``: ask again.

        Bytes: float32 shares of the positions (n, or none), heads (layers, heads), MLPs (layers),
        per-layer embeddings (layers) and experts (layers, ranks); then the experts' weights,
        float32, and numbers, int32, both (layers, ranks). The content says which there are.

        Raises what :func:`gemma4_mlx.attribute` raises.
        """
        question = self._wanted = Question(int(position), target, against, str(method), stop)
        found = self._ask(self._jobs.poll, question)
        return found if isinstance(found, dict) else encoded(found)

    def answer_check(self, question: dict) -> Any:
        """What removing the largest parts really does, and as many others: ``{"effects": [[kind,
        layer, index, share, measured, control, text], ...]}``; or how far it is. Raises
        AttributionError without the model."""
        asked = Question(**question)

        def work(tell):
            why = self._explained(asked)
            effects = why.check(CHECKED, lambda event: tell(event.done / max(1, event.total)))
            texts = why.tokens.texts
            return {
                "effects": [
                    [
                        *(e.kind, e.layer, e.index, e.share, e.measured, e.control),
                        texts[e.index] if e.kind == "position" else None,
                    ]
                    for e in effects
                ]
            }

        return self._jobs.poll(("check", self._known(asked), json.dumps(question)), work)

    def answer_without(self, question: dict, parts: list, tokens: int = 24) -> Any:
        """Answer again from the question's place on, without ``parts`` ([[kind, layer, index],
        ...]), and without as many others as a control; or how far that is. Of kind "position" is
        a token that nothing may read.

        Raises AttributionError without the model, and for what cannot be removed.
        """
        if self._told is None:
            raise AttributionError("answering again takes the model: Why(attribution, model=model)")
        asked, wanted = Question(**question), [tuple(part) for part in parts]

        def work(tell):
            why = self._explained(asked)
            there = self._told.removable(why)
            if unknown := [part for part in wanted if part not in there]:
                raise AttributionError(f"{unknown[0]} cannot be removed here")
            chosen = [there[part] for part in wanted]
            others = drawn_beside(chosen, there, self._told.tokens.kinds)
            return self._told.without(asked, chosen, others, int(tokens), tell)

        key = json.dumps({"question": question, "parts": parts, "tokens": tokens})
        return self._jobs.poll(("without", key), work)

    def _explained(self, question: Question) -> Attribution:
        """The answer to a question, waited for."""
        self._held.append(question)
        try:
            return self._ask(self._jobs.finish, question)
        finally:
            self._held.remove(question)

    def _ask(self, ask, question: Question):
        key, work = self._known(question), self._work(question)
        try:
            return ask(key, work)
        except Superseded:  # nobody waited for it then; now somebody does
            return ask(key, work)

    def _work(self, question: Question):
        """Explains in a job, which ends early when nobody waits for it any more."""
        if self._given is not None and self._known(question) == self._known(self._of_given()):
            return lambda tell: self._given
        if self._told is None:
            raise AttributionError(
                "another question takes the model: Why(attribution, model=model)"
            )
        told = self._told

        def work(tell):
            def progress(share: float) -> None:
                if question != self._wanted and question not in self._held:
                    raise Superseded
                tell(share)

            return told.attribute(question, progress)

        return work

    def _of_given(self) -> Question:
        """What the attribution answers that the view was opened on."""
        given = self._given
        ids = [None if side is None else side[0] for side in (given.target, given.against)]
        stop = given.stop if given.stop > given.position + 1 else None
        return Question(given.position, *ids, given.method, stop)

    # ---- snapshots and pictures -----------------------------------------------------------------

    def snapshot_requests(self) -> list[dict]:
        """The text; the explanations, checks and answers that were asked for, the present one
        among them."""
        n, shown = self.meta["n"], self.attribution
        around = min(shown.position, n - 1) if n else None
        wanted = self.page_requests(around, pages=SNAPSHOT_PAGES)
        kept = {request["start"] for request in wanted}
        wanted += [{**request, "type": "ids"} for request in wanted]
        for media in self.meta["media"]:
            if media["start"] // PAGE * PAGE in kept:
                wanted.append({"type": "media", "span": media["index"]})
        self._jobs.job(("row",), self._told.answer if self._told else lambda tell: None).wait()
        wanted.append({"type": "row"})
        for kind, *asked in self._jobs.done():
            if kind == "explain":
                wanted.append({"type": "explain", **Question(*asked).as_dict()})
            elif kind == "check":
                wanted.append({"type": "check", "question": json.loads(asked[1])})
            elif kind == "without":
                wanted.append({"type": "without", **json.loads(asked[0])})
        return [*wanted, {"type": "export", "format": "svg"}]

    def drawing(self):
        """The still picture: the text in the colours of its shares, and the parts with most."""
        from .why_picture import draw_why

        return draw_why(self)

    def snapshot_image(self):
        return self.drawing().pil()


def _without_text(why: Attribution) -> Attribution:
    """One of a file that holds no tokens, with none."""
    from ..tracing.data.tokens import Tokens

    return replace(why, tokens=Tokens([], []))


def encoded(why: Attribution) -> tuple[dict, bytes]:
    """An attribution as :meth:`Why.answer_explain` sends it."""
    names = ("positions", "heads", "mlp", "per_layer", "experts", "expert_weights")
    arrays = {name: getattr(why, name) for name in names}
    there = {name: list(x.shape) for name, x in arrays.items() if x is not None}
    bulk = [np.asarray(arrays[name], "<f4").tobytes() for name in there]
    if why.expert_ids is not None:
        bulk.append(np.asarray(why.expert_ids, "<i4").tobytes())
    content = {
        "position": why.position,
        "stop": why.stop,
        "target": list(why.target),
        "against": None if why.against is None else list(why.against),
        "method": why.method,
        "total": why.total,
        "base": why.base,
        "remainder": why.remainder,
        "embedding": why.embedding,
        "arrays": there,
        "interventions": list(why.interventions),
        "checkable": why.measure is not None,
    }
    return content, b"".join(bulk)
