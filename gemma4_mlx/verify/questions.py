"""Whether the model still knows what it was taught: questions with one right answer, and a text.

A model can compute everything as its files say and still be wrong, when the files are.
"""

import json
from collections.abc import Iterator
from importlib import resources

import mlx.core as mx
import numpy as np

from ..processing.template import render
from .report import Finding

#: A released model gives the right token of every question nearly all its probability, also at 4
#: bits; one that is broken gives it to hardly any.
SURE, ENOUGH = 0.5, 0.75
#: Perplexity of plain prose that no sound model comes near.
LOST = 200.0


def _shipped() -> dict:
    return json.loads(resources.files(__package__).joinpath("questions.json").read_text("utf-8"))


def kind_of(model) -> str:
    """ "teaching" for the model in the package, by its small vocabulary; else "gemma"."""
    return "teaching" if model.config.text.vocab_size < 32_768 else "gemma"


def _questions(model) -> Iterator[tuple[str, list[int], str]]:
    """Each question, the prompt's tokens and the right answer."""
    if kind_of(model) == "teaching":
        from ..teaching import skills  # whatever it was trained on last

        for sample in skills.questions():
            question = sample.prompt.rpartition("<|turn>user\n")[2].partition("<turn|>")[0]
            prompt = model.tokenizer.encode(sample.prompt, allow_special=True)
            yield question, prompt, sample.answer
        return
    for question, answer in _shipped()["questions"]:
        rendered = render([{"role": "user", "content": question}], template=model.chat_template)
        yield question, rendered.encode(model.tokenizer), answer


def asked(model) -> list[dict]:
    """Each question with its answer and ``probability``: the geometric mean over its tokens."""
    found = []
    for question, prompt, answer in _questions(model):
        wanted = model.tokenizer.encode(answer, allow_special=True)
        logits = model(mx.array([[*prompt, *wanted[:-1]]]))[0, len(prompt) - 1 :]
        logits = logits.astype(mx.float32)
        right = logits[mx.arange(len(wanted)), mx.array(wanted)] - mx.logsumexp(logits, axis=-1)
        probability = float(np.exp(np.array(right).mean()))
        found.append({"question": question, "answer": answer, "probability": probability})
    return found


def text_ids(model) -> list[int]:
    """The shipped text's tokens, from ``<bos>`` on."""
    text = _shipped()["text"][kind_of(model)]
    return [model.config.text.bos_token_id, *model.tokenizer.encode(text, allow_special=True)]


def perplexity(model) -> float:
    """exp of the mean surprise of the shipped text's tokens."""
    ids = text_ids(model)
    logits = model(mx.array([ids[:-1]]))[0].astype(mx.float32)
    surprise = mx.logsumexp(logits, -1) - logits[mx.arange(len(ids) - 1), mx.array(ids[1:])]
    return float(np.exp(np.array(surprise).mean()))


def judged(questions: list[dict], perplexity: float) -> list[Finding]:
    right = sum(q["probability"] >= SURE for q in questions)
    note = f"{right} of {len(questions)} answers are likelier than not"
    found = [
        Finding("questions", None, "answers", note=note, fine=right >= ENOUGH * len(questions))
    ]
    note = f"perplexity {perplexity:.4g}"
    return [*found, Finding("questions", None, "text", note=note, fine=bool(perplexity < LOST))]
