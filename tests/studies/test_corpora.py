"""The corpora that need no download: long enough, the same every time, each of its own kind."""

import itertools
import json
from pathlib import Path

import pytest

import gemma4_mlx as g4
from gemma4_mlx.errors import StudyError
from gemma4_mlx.studies import corpora, texts
from gemma4_mlx.studies.building.sources import Remark, documents

CHARACTERS = 5  # of a token of a real vocabulary, at most, in such texts


def length(document) -> int:
    if isinstance(document, str):
        return len(document)
    return sum(len(message["content"]) for message in document)


@pytest.mark.parametrize("name", sorted(corpora.starter()))
def test_a_starter_corpus_is_long_enough_and_the_same_every_time(name):
    (corpus,) = corpora.starter(name).values()
    total, count = 0, 0
    for document in documents(name, corpus):
        assert not isinstance(document, Remark)
        total, count = total + length(document), count + 1
        if total >= 100_000 * CHARACTERS:
            break
    assert total >= 100_000 * CHARACTERS and count >= 40
    few = [list(itertools.islice(corpus, 5)) for _ in range(2)]
    assert few[0] == few[1] and len({str(document) for document in few[0]}) == 5


def test_what_is_written_is_right():
    kinds = corpora.starter("arithmetic", "json", "dialogues", seed=3)
    for line in next(iter(kinds["arithmetic"])).splitlines():
        said, result = line.split(" = ")
        assert eval(said) == int(result)
    assert len(json.loads(next(iter(kinds["json"])))["results"]) == 8
    talk = next(iter(kinds["dialogues"]))
    told = talk[1]["content"]
    for question, answer in zip(talk[3::2], talk[4::2]):
        assert (question["role"], answer["role"]) == ("user", "assistant")
        owner = next(word for word in answer["content"].split() if f"{word} has the" in told)
        assert owner in told
    other = corpora.starter("arithmetic", seed=4)["arithmetic"]
    assert next(iter(other)) != next(iter(kinds["arithmetic"]))


def test_the_declaration_is_whole_in_more_than_a_hundred_languages():
    languages = texts.declaration()
    assert len(languages) == 150 and all(len(said["parts"]) == 31 for said in languages.values())
    assert languages["fr"]["parts"][1].startswith(
        "Article premier\nTous les êtres humains naissent"
    )
    assert "世界人权宣言" in languages["zh"]["parts"][0]
    some = corpora.declaration("sw", "de")
    assert list(some) == ["Swahili", "German, Standard (1996)"]
    assert "\n".join(some["Swahili"]) == "\n".join(languages["sw"]["parts"])
    every = corpora.declaration()
    assert len(every) == 150
    # The corpus of all has each language before any comes again.
    first = list(itertools.islice(corpora.starter("languages")["languages"], 151))
    assert first[:150] == [next(iter(corpus)) for corpus in every.values()]
    assert first[150].startswith(languages["aa"]["parts"][3])


def test_shipped_texts_are_small_and_their_licences_named():
    files = [texts.DECLARATION, texts.NOVEL]
    assert sum(file.stat().st_size for file in files) < 1_000_000
    said = (Path(texts.__file__).parent / "README.md").read_text("utf-8")
    assert all(f"`{file.name}`" in said for file in files)
    assert "MIT License" in said and "public domain" in said
    pages = list(corpora.starter("prose")["prose"])
    assert "\n".join(pages).count("Chapter ") == 61
    assert pages[-1].endswith("the means of uniting them.")


def test_a_name_that_does_not_exist_is_said():
    with pytest.raises(StudyError, match="no declaration in 'xx'; there are aa, ab"):
        corpora.declaration("de", "xx")
    with pytest.raises(StudyError, match="'poetry'; there are arithmetic, code, dialogues"):
        corpora.starter("code", "poetry")


def test_the_teaching_models_domains():
    model = g4.load()
    lessons = corpora.teaching(model, documents=2)
    config = model.config
    for name, corpus in lessons.items():
        found = list(corpus)
        assert [d.tokens for d in found] == [d.tokens for d in corpus] and len(found) == 2
        for inputs in found:
            text = "".join(model.tokenizer.token_text(i) for i in inputs.tokens)
            assert text.startswith("<bos><|turn>") and text.endswith("<turn|>")
            media = {"image": config.image_token_id, "audio": config.audio_token_id}.get(name)
            assert bool(inputs.media) == (media is not None)
            assert media is None or inputs.tokens.count(media) == sum(
                s.stop - s.start for s in inputs.media
            )
    with pytest.raises(StudyError, match="0 documents"):
        corpora.teaching(model, documents=0)
