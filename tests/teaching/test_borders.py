"""What the model is asked and does not know: training prompts, held-out ones, and its answer."""

import numpy as np
import pytest

from gemma4_mlx.teaching import CHECKPOINT, borders, offscript, outside, strange, tokenizer


def plain(text):
    return text.lower().strip(" .?!")


def held_out():
    both = [offscript.prompts(later) for later in (False, True)]
    return {asked for prompts in both for some in prompts.values() for asked, _ in some}


def test_the_held_out_prompts_are_many_and_in_twenty_languages():
    assert len(held_out()) >= 350
    assert (
        set(offscript.ASKED) == set(offscript.LATER) == set(strange.SORRY) == set(strange.QUESTIONS)
    )
    assert len(strange.SORRY) == 20
    assert len({*offscript.WHO, *offscript.HELLO, *offscript.CAN}) == 50


def test_training_has_no_held_out_prompt():
    greetings = set(map(plain, [*offscript.WHO, *offscript.HELLO, *offscript.CAN]))
    known = (*strange.WHO, *strange.HELLO, *strange.CAN)
    known += tuple(p for phrasings, _ in borders.SMALL_TALK.values() for p in phrasings)
    assert not greetings & set(map(plain, known))
    rng = np.random.default_rng(0)
    asked = {borders.stranger(rng)[0] for _ in range(3000)}
    asked |= {text for _ in range(500) for text, _ in borders.meet(rng).parts}
    assert len(asked) > 2500 and not asked & held_out()


@pytest.mark.parametrize("language", strange.SORRY)
def test_the_answer_is_one_short_sentence(language):
    answer = strange.SORRY[language]
    assert sum(answer.count(end) for end in ".。।") == 1
    encoded = tokenizer.load(CHECKPOINT).encode(answer, add_special_tokens=False)
    assert len(encoded.ids) < outside.LIMIT


def test_a_conversation_learns_its_last_subject_alone():
    rng = np.random.default_rng(2)
    repeated = 0
    for _ in range(100):
        parts = borders.mixed(rng).parts
        learned = [i for i, (_, learn) in enumerate(parts) if learn]
        assert learned and learned[-1] == len(parts) - 1
        user = [text for text, _ in parts if text.startswith("<|turn>user")]
        again = user[-1] in user[:-1]
        assert learned[0] > 2 or again  # what is repeated is learned both times
        repeated += again
    assert 5 < repeated < 60


def test_other_digits_are_answered_in_the_usual_ones():
    rng = np.random.default_rng(3)
    for _ in range(50):
        sample = borders.digits(rng)
        asked = "".join(text for text, learn in sample.parts if not learn)
        assert any(c.isdigit() for c in asked) and not any(c in "0123456789" for c in asked)
        if sample.domain == "arithmetic":
            assert eval(sample.answer.replace("=", "==").rsplit(", ")[-1])


def test_a_slip_changes_little():
    rng = np.random.default_rng(4)
    slips = [borders.typo(rng, "who are you") for _ in range(50)]
    assert len(set(slips)) > 15 and {len(s) for s in slips} <= {10, 11, 12}
    assert borders.typo(rng, "?!") == "?!"
