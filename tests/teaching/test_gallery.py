"""The gallery: pages that need neither Python nor a network."""

import re

import pytest

import gemma4_mlx as g4
from gemma4_mlx.teaching import gallery

QUICK = ["anatomy", "fit", "prompt-chat", "routing-compared"]


def pages_stand_alone(folder, pages):
    index = (folder / "index.html").read_text(encoding="utf-8")
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert page.stat().st_size > 50_000 and text.rstrip().endswith("</html>")
        assert not re.findall(r"""(?:src|href)=["']?https?:""", text), "it would fetch something"
        assert f'href="{page.name}"' in index


def test_pages_are_written_again_and_listed(tmp_path):
    told = []
    first = gallery.build(tmp_path / "new" / "pages", QUICK[:1], told.append)
    assert [page.stem for page in first] == QUICK[:1] and len(told) == 1
    pages = gallery.build(tmp_path / "new" / "pages", QUICK[1:], told.append)
    assert sorted(page.stem for page in pages) == QUICK and len(told) == len(QUICK)
    pages_stand_alone(tmp_path / "new" / "pages", pages)


def test_every_widget_has_a_scene_and_a_wrong_name_is_told(tmp_path):
    shown = {scene.title.split(":")[0] for scene in gallery.SCENES}
    assert shown == set(g4.widgets.__all__) - {"Snapshot"}
    with pytest.raises(ValueError, match="no scene nothing; there are prompt-chat"):
        gallery.build(tmp_path, ["nothing"])


def test_what_the_scenes_say_is_right():
    model = g4.load()
    chat = gallery.mixed(model)
    said = [message.text for message in chat.messages if message.role == "assistant"]
    parts = ["blanco", "deux, trois", "二，三", "return apple + pear", "42", "red circle"]
    assert all(part in answer for part, answer in zip(parts, said, strict=True)), said
    needle = gallery.asked(model, gallery.notes())
    assert str(gallery.KEYS["key"]) in needle.messages[-1].text
    sound = g4.chat.Audio(gallery.beeps(), rate=16_000)
    heard = gallery.asked(model, "How many tones do you hear?", audio=[sound])
    assert heard.messages[-1].text == "Three tones."


@pytest.mark.slow
def test_the_whole_gallery(tmp_path):
    pages = gallery.build(tmp_path)
    assert [page.stem for page in pages] == [scene.name for scene in gallery.SCENES]
    pages_stand_alone(tmp_path, pages)
