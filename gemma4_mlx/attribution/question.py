"""What is asked: which model, which prompt, and what of its answer is to be explained."""

from dataclasses import dataclass

import mlx.core as mx

from ..generation import engine
from ..generation.prefill import Prompt
from ..tracing.data.tokens import Tokens
from ..tracing.recording.recorder import model_facts
from ..tracing.recording.tokens import media_of
from .data import Attribution
from .target import Target


@dataclass(frozen=True)
class Question:
    """``tokens``: the prompt's, as a trace has them; the rest is as :func:`.attribute` has it."""

    model: object
    prompt: Prompt
    tokens: Tokens
    target: Target
    chunk: int
    media_features: object = None

    def run(self, progress, generator, *arguments):
        """What ``generator(self, *arguments)``, which yields Progress, returns; run by the
        engine. An exception from ``progress`` stops it, and so does Ctrl-C."""
        mx.eval(self.model.parameters())  # lazy arrays belong to the thread that made them
        job = engine().submit(generator, self, *arguments)
        for event in job.events():
            if progress is not None:
                progress(event)
        return job.result()

    def answer(self, method: str, target: Target, total: float, **found) -> Attribution:
        """The attribution that a method found."""
        return Attribution(
            **target.described(self.model, self.tokens),
            total=total,
            method=method,
            tokens=self.tokens,
            media=media_of(self.prompt.inputs),
            model=model_facts(self.model),
            interventions=tuple(map(str, self.model.interventions)),
            **found,
        )
