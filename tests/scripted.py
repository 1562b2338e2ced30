"""A model that plays a script, in place of one that computes."""

from types import SimpleNamespace

from waiting import PATIENCE, until

from gemma4_mlx.generation import Finish, Progress, Token
from gemma4_mlx.generation.engine import current_job


class Script:
    """Replies to come, as text with control tokens spelled out, and the prompts that were read.

    A reply may be an exception to raise, or a (text, exception) pair: raised after the text.
    ``break_off`` is called once, after the fifth token, when the reader has had the first four;
    the reply goes on when it was cancelled.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.replies: list = []
        self.prompts: list[str] = []
        self.options: list = []
        self.constraints: list = []
        self.break_off = None

    def stream(self, model, inputs, *, options, cache, constraint, guides, alternatives, cancel,
               media_features, beyond_context, text):  # fmt: skip
        """In place of ``generation.stream``."""
        self.prompts.append(self.tokenizer.decode(inputs.tokens))
        self.options.append(options)
        self.constraints.append((constraint, guides))
        yield Progress(0, len(inputs), 0.0)
        reply = self.replies.pop(0)
        said, error = reply if isinstance(reply, tuple) else (reply, None)
        if isinstance(said, BaseException):
            raise said
        stops = self.tokenizer.eos_token_ids
        reason, count = "stop", 0
        for count, id in enumerate(self.tokenizer.encode(said, allow_special=True), 1):
            if cancel.is_set():
                reason = "cancelled"
                break
            shown = text.finish() if id in stops else text.add(id)
            yield Token(id, shown, -1.0, (), count - 1, 0.0, id in stops)
            if self.break_off is not None and count == 5:
                until(current_job()._events.empty)
                self.break_off()
                assert cancel.wait(PATIENCE)
                self.break_off = None
            if id in stops:
                break
            if count == options.max_tokens:
                reason = "length"
                break
        if error is not None:
            raise error
        yield Finish(reason, len(inputs), 0, count, 0.1, 0.1, 0, text.finish())


def actor_like(model) -> SimpleNamespace:
    """What a chat asks a model for, without weights."""
    return SimpleNamespace(
        tokenizer=model.tokenizer,
        config=model.config,
        dtype=model.dtype,
        chat_template=model.chat_template,
        generation_config=model.generation_config,
        processor_config=model.processor_config,
        source="script",
        fingerprint="script",
        interventions=(),
        make_cache=lambda **_: [],
    )
