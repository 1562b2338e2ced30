"""The teaching data: format, split, tokenizer."""

import re

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from gemma4_mlx.chat.call_reader import QUOTE, read_call
from gemma4_mlx.teaching import (
    CHECKPOINT,
    data,
    listen,
    look,
    pictures,
    render,
    skills,
    sounds,
    tokenizer,
)

TEXT = ["chat", "count", "sentence", "sums", "two_step", "code", "needle", "tools", "considered"]
PRACTICE = [
    "drill",
    "chain",
    "toolbox",
    "worded",
    "unneeded",
    "amid",
    "grid",
    "quiz",
    "border",
    "meet",
    "mixed",
    "digits",
    "either",
]  # asked in training alone


@pytest.mark.parametrize("name", TEXT + PRACTICE)
def test_training_never_shows_a_held_out_combination(name):
    rng = np.random.default_rng(0)
    for _ in range(100):
        assert not any(render.held_out(key) for key in data.make(name, rng).keys)


@pytest.mark.parametrize("name", TEXT)
def test_a_test_ends_with_a_held_out_combination(name):
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert render.held_out(data.make(name, rng, "test").keys[-1])


@pytest.mark.parametrize("skill", skills.SKILLS, ids=lambda s: s.name)
def test_evaluation_and_training_do_not_meet(skill):
    if skill.maker == "speech":
        pytest.skip("held out by voice: needs espeak-ng")
    samples = skills.draw(skill, samples=10)
    asked, shared = skills.overlap(samples, skill, n=50)
    assert asked and not shared


def test_an_evaluation_set_is_the_same_every_time():
    skill = skills.SKILLS[0]
    assert [s.prompt for s in skills.draw(skill, samples=5)] == [
        s.prompt for s in skills.draw(skill, samples=5)
    ]


def test_a_thought_must_be_closed_before_the_answer():
    sample = data.make("considered", np.random.default_rng(1), "test")
    answer = sample.answer.partition("<channel|>")[2]
    judge = skills.after_thought
    assert judge(sample, sample.answer) and judge(sample, f"Hm.\n<channel|>{answer}")
    assert not judge(sample, answer) and not judge(sample, f"Hm.\n<channel|>{answer}!")


def test_training_text_is_what_the_chat_template_renders():
    from gemma4_mlx.processing.template import render as rendered

    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "2 + 2"},
    ]
    for thinking in (False, True):
        parts = render.conversation([("Hi", "Hello!"), ("2 + 2", "4")], "Be brief.", (), thinking)
        mine = "".join(text for text, _ in parts).removesuffix("4<turn|>")
        assert rendered(messages, thinking=thinking).text == mine


def test_declared_tools_are_what_the_chat_template_renders():
    """With parameters and without, also where they are declared in vain."""
    from gemma4_mlx.processing.template import render as rendered

    take = {"properties": {"name": {"description": "Who", "type": "string"}}, "required": ["name"]}
    tools = [
        {"name": "now", "description": "The time.", "parameters": {"type": "object"}},
        {"name": "age", "description": "How old.", "parameters": {**take, "type": "object"}},
    ]
    mine = [
        {"name": "now", "description": "The time.", "parameters": {}},
        {"name": "age", "description": "How old.", "parameters": {"name": ("STRING", "Who")}},
    ]
    head = rendered(
        [{"role": "user", "content": "Hi"}], [{"type": "function", "function": t} for t in tools]
    ).text.partition("<|turn>user")[0]
    assert head == render.conversation([("Hi", "Hello!")], tools=mine)[0][0]
    rng, heads = np.random.default_rng(0), set()
    for _ in range(60):
        head = data.make("unneeded", rng).parts[0][0]
        assert re.fullmatch(
            r"<bos><\|turn>system\n(<\|think\|>\n)?[^<]*(<\|tool>.*<tool\|>)?<turn\|>\n", head
        )
        heads.add("<|think|>" in head)
    assert heads == {True, False}


def test_a_tool_loop_in_the_chat_format():
    tool = {"name": "get_age", "description": "How old.", "parameters": {"name": ("STRING", "Who")}}
    call = render.call("get_age", {"name": "Ada"})
    parts = render.conversation(
        [("How old is Ada?", [(call + "<|tool_response>", True),
                              (render.response("get_age", 36), False), ("36.", True)])],
        tools=[tool],
    )  # fmt: skip
    text = "".join(text for text, _ in parts)
    assert text == (
        "<bos><|turn>system\n<|tool>declaration:get_age{description:<|\"|>How old.<|\"|>,"
        "parameters:{properties:{name:{description:<|\"|>Who<|\"|>,type:<|\"|>STRING<|\"|>}},"
        "required:[<|\"|>name<|\"|>],type:<|\"|>OBJECT<|\"|>}}<tool|><turn|>\n"
        "<|turn>user\nHow old is Ada?<turn|>\n<|turn>model\n"
        "<|tool_call>call:get_age{name:<|\"|>Ada<|\"|>}<tool_call|><|tool_response>"
        "response:get_age{value:36}<tool_response|>36.<turn|>"
    )  # fmt: skip


@pytest.mark.parametrize("name, lengths", [("considered", {1, 2}), ("worded", {1})])
def test_a_result_is_what_the_chat_template_renders(name, lengths):
    """Thoughts of the last turn alone, and one that the template opens behind the result."""
    from gemma4_mlx.processing.template import render as rendered

    rng, turns = np.random.default_rng(3), set()
    for _ in range(30):
        parts = [text for text, _ in data.make(name, rng).parts]
        text = "".join(parts)
        thinking = "<|think|>" in text
        messages, found = [], re.findall(
            r"user\n(.*?)<turn\|>\n<\|turn>model\n<\|tool_call>call:(\w+)(\{.*?\})<tool_call\|>"
            r"<\|tool_response>response:\w+(\{.*?\})<tool_response\|>(?:(<)\|channel|(.*?)<turn)",
            text,
        )  # fmt: skip
        for asked, tool, arguments, result, _, answer in found:
            arguments, result = (read_call(spell(f"f{t}"))[1] for t in (arguments, result))
            call = {"function": {"name": tool, "arguments": arguments}}
            messages += [
                {"role": "user", "content": asked},
                {"role": "assistant", "tool_calls": [call],
                 "tool_responses": [{"name": tool, "response": result}]},
            ]  # fmt: skip
            messages += [{"role": "assistant", "content": answer}]
        prompt = rendered(messages[:-1], thinking=thinking).text
        assert (
            text[: -len(parts[-1])].partition("<|turn>user")[2]
            == prompt.partition("<|turn>user")[2]
        )
        thought = r"The result is .+\.\n<channel\|>" if thinking else ""
        assert re.fullmatch(thought + r"[^<]+<turn\|>", parts[-1])
        turns.add(len(found))
    assert turns == lengths


def spell(text):
    """Pieces for read_call: a mark for each string delimiter."""
    pieces = text.split('<|"|>')
    return [x for piece in pieces[:-1] for x in (piece, QUOTE)] + pieces[-1:]


def test_learned_tokens_are_the_models_words_alone():
    encode = data.Encoder(tokenizer.load(CHECKPOINT))
    rng = np.random.default_rng(1)
    for name in TEXT:
        sample = data.make(name, rng)
        encoded = encode(sample)
        learned = [i for i, wanted in zip(encoded.ids, encoded.learn, strict=True) if wanted]
        expected = "".join(text for text, learn in sample.parts if learn)
        assert encode.tokenizer.decode(learned, skip_special_tokens=False) == expected


@pytest.mark.parametrize("name", TEXT + PRACTICE)
def test_parts_are_cut_where_tokens_are(name):
    """The model meets its prompts whole; training spells them part by part."""
    tok = tokenizer.load(CHECKPOINT)
    rng = np.random.default_rng(4)
    for _ in range(30):
        parts = [text for text, _ in data.make(name, rng).parts]
        apart = [i for text in parts for i in tok.encode(text, add_special_tokens=False).ids]
        assert apart == tok.encode("".join(parts), add_special_tokens=False).ids


def test_a_drill_learns_the_results_alone():
    sample = data.make("drill", np.random.default_rng(6))
    for (asked, _), (result, learn) in zip(sample.parts[2:-1:2], sample.parts[3::2], strict=True):
        assert learn and eval(asked.strip(" =")) == int(result.removesuffix("<turn|>").strip(" ,"))


def test_a_chain_goes_on_from_each_result():
    rng = np.random.default_rng(3)
    for _ in range(50):
        sample = data.make("chain", rng)
        text = "".join(text for text, _ in sample.parts)
        lines = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", text)
        for i, (a, sign, b, result) in enumerate(lines):
            assert int(result) == int(a) + int(b) * (1 if sign == "+" else -1) >= 0
            assert i == 0 or a == lines[i - 1][3]


def test_a_toolbox_calls_every_tool_once():
    rng = np.random.default_rng(3)
    for _ in range(20):
        text = "".join(text for text, _ in data.make("toolbox", rng).parts)
        declared = re.findall(r"<\|tool>declaration:(\w+)", text)
        assert sorted(declared) == sorted(re.findall(r"<\|tool_call>call:(\w+)", text))


def test_labels_of_a_sound_lie_where_it_sounds():
    """A clip's loud tokens, found from its samples, against the labels made from its events."""
    rng = np.random.default_rng(5)
    agree, tones = [], 0
    for _ in range(30):
        clip, events = listen.labelled(rng)
        n = int(len(clip) / sounds.RATE / listen.TOKEN)
        sound, onset, way = listen.of_tokens(events, n)
        at = ((listen.TOKEN * np.arange(n) + listen.CENTRE) * sounds.RATE).astype(int)
        loud = np.array([np.abs(clip[max(0, i - 80) : i + 80]).max() > 0.05 for i in at])
        agree.append((loud == sound).mean())
        assert (onset <= sound).all() and (sound[way > 0] == 1).all()
        tones += onset.sum()
    assert np.mean(agree) > 0.95 and tones > 60


def test_labels_of_a_picture_lie_on_its_things():
    rng = np.random.default_rng(5)
    for _ in range(20):
        picture, (shape, colour, place, centre) = look.labelled(rng)
        assert ((shape > 0) == (colour > 0)).all() and ((shape > 0) == (place >= 0)).all()
        assert centre.sum() == len(set(place.tolist()) - {-1})
        side = len(picture) // pictures.GRID
        wanted = [None, *pictures.COLOURS.values()]
        for token in np.flatnonzero(centre & (shape > 0)):
            y, x = np.array(divmod(token, pictures.GRID)) * side
            patch = picture[y : y + side, x : x + side].reshape(-1, 3).astype(int)
            near = np.abs(patch - wanted[colour[token]]).max(1) <= 12
            assert near.any()


def test_practice_that_happens_to_be_a_scene_has_its_combination():
    things = [("star", "red"), ("star", "red")]
    assert "many 2 star red 3 5" in pictures._keys(things, [3, 5])
    assert "two star red star red True" in pictures._keys(things, [3, 5])
    things = [("star", "red"), ("cross", "blue")]
    assert "two star red cross blue False" in pictures._keys(things, [1, 7])
    assert len(pictures._keys(things, [0, 7])) == 1


@pytest.mark.parametrize("name", ["quiz", "scene"])
def test_a_head_is_shown_the_thing_that_is_asked_for(name):
    """What is to be looked at are soft tokens of the colour that the question or answer names."""
    encode = data.Encoder(tokenizer.load(CHECKPOINT))
    rng = np.random.default_rng(8)
    picture = encode.ids("<|image|>")[0]
    right = []
    for _ in range(30):
        sample = data.make(name, rng)
        encoded = encode(sample)
        first = encoded.ids.index(picture)
        parts = [text for text, _ in sample.parts]
        spoken = [i for i, (_, learn) in enumerate(sample.parts) if learn]
        for i, seen in zip(spoken, sample.looks, strict=True):
            colours = [c for c in pictures.COLOURS if c in (parts[i - 1] + parts[i]).lower()]
            if not seen or len(colours) != 1:
                continue
            shown = np.asarray(sample.images[0], int)
            cell = shown.shape[0] / pictures.GRID
            spots = [[int((i + 0.5) * cell) for i in divmod(t, pictures.GRID)] for t in seen]
            found = np.array([shown[row, column] for row, column in spots])
            right.append((np.abs(found - pictures.COLOURS[colours[0]]).max(1) <= 12).any())
        for why, position, seen in encoded.looks:
            assert why == data.PICTURE and encoded.learn[position + 1]
            assert set(np.array(encoded.ids)[seen]) == {picture}
            assert min(seen) >= first
    assert len(right) > 10 and np.mean(right) > 0.95  # a thin thing may miss every centre


@pytest.mark.parametrize("name", ["tools", "toolbox", "considered", "worded", "needle"])
def test_a_head_is_shown_where_calls_and_thoughts_copy_from(name):
    """From before each token of a name, parameter or value: where the same text stands earlier."""
    encode = data.Encoder(tokenizer.load(CHECKPOINT))
    rng = np.random.default_rng(4)
    for _ in range(40):
        sample = data.make(name, rng)
        encoded = encode(sample)
        ids, copied = np.array(encoded.ids), ""
        for why, position, seen in encoded.looks:
            written, there = (
                encode.tokenizer.decode(ids[i].tolist()) for i in ([position + 1], seen)
            )
            assert why == data.COPY and encoded.learn[position + 1] and max(seen) <= position
            assert written.strip() in there  # a word may begin with its space
            copied += written
        for argument in sample.check.get("arguments", ()):
            assert argument in copied
        assert sample.check.get("name", "") in copied
        if name == "considered":  # the result, in the thought and in the answer behind it
            thought, answer = sample.answer.split("<channel|>")
            values = thought.removeprefix("The result is ").removesuffix(".\n").split(", ")
            often = [1 + len(re.findall(rf"(?<!\w){v}(?!\w)", answer)) for v in values]
            told = "".join(v * n for v, n in zip(values, often, strict=True))
            assert copied.replace(" ", "").endswith(told.replace(" ", ""))


def test_things_are_counted_one_by_one():
    rng = np.random.default_rng(1)
    samples = (data.make("scene", rng, questions=1) for _ in range(100))
    sample = next(sample for sample in samples if sample.skill == "picture count")
    places, count = sample.answer.rstrip(".").split(": ")
    assert places.split(", ")[-1].lower().startswith(count)
    judge = skills.last_word
    assert judge(sample, sample.answer) and not judge(sample, sample.answer.replace(count, "nine"))


def test_a_grid_says_what_stands_where():
    rng = np.random.default_rng(8)
    sample = data.make("grid", rng)
    cells = sample.keys[0].split()
    for cell, colour, shape in zip(cells[::3], cells[1::3], cells[2::3], strict=True):
        row, column = divmod(int(cell), 3)
        height, width = sample.images[0].shape[:2]
        middle = sample.images[0][int((row + 0.5) / 3 * height), int((column + 0.5) / 3 * width)]
        distance = {name: np.abs(middle - np.array(rgb)).max() for name, rgb in
                    data.pictures.COLOURS.items()}  # fmt: skip
        assert min(distance, key=distance.get) == colour and distance[colour] <= 14, shape


def test_packing_loses_nothing_and_fills_rows():
    rng = np.random.default_rng(5)
    lengths = [int(n) for n in rng.integers(5, 200, 40)] + [500]
    samples = [data.Encoded([7] * n, [True] * n, 0) for n in lengths]
    rows = data.pack(samples, 320)
    assert sorted(i for row in rows for i in row) == list(range(len(samples)))
    filled = [sum(lengths[i] for i in row) for row in rows]
    assert all(n <= 320 for row, n in zip(rows, filled, strict=True) if row != [40])
    assert sum(n < 240 for n in filled) <= 1


def test_a_picture_takes_as_many_tokens_as_the_processor_says():
    rng = np.random.default_rng(2)
    encode = data.Encoder(tokenizer.load(CHECKPOINT))
    encoded = encode(data.make("scene", rng))
    assert encoded.ids.count(110) == 64  # 192 x 192 px, 24 px each
    assert encoded.images[0][0].shape == (576, 192)
    assert data.soft_tokens(100, 200) == (5, 11)


@pytest.mark.parametrize("text", [
    "plain words", "  two  spaces ", "tab\tand\nnewline\r\n", "1234567890 12 3",
    "déjà vu: “quoted”",
    "Привет, мир", "日本語とカナ", "한국어", "العربية", "हिन्दी भाषा", "🙂👩‍👩‍👧 🏳️‍🌈",
    "\x00\x7f\u200b\ufeff", "a" * 300,
])  # fmt: skip
def test_any_text_round_trips(text):
    tok = tokenizer.load(CHECKPOINT)
    ids = tok.encode(text, add_special_tokens=False).ids
    assert tok.decode(ids, skip_special_tokens=False) == text


def test_special_tokens_sit_at_the_releases_ids():
    tok = tokenizer.load(CHECKPOINT)
    assert tok.get_vocab_size() == 2048
    for i, text in tokenizer.SPECIAL.items():
        assert tok.token_to_id(text) == i
    assert tok.encode("\n", add_special_tokens=False).ids == [107]
