"""Damaged, foreign and hostile checkpoints: one clear error that names file, key, expectation."""

import json
import os
import pickle
import struct
import subprocess
import sys

import mlx.core as mx
import pytest
import tiny
from waiting import PATIENCE

import gemma4_mlx as g4
from gemma4_mlx.checkpoints.files import LARGEST_HEADER, read_header
from gemma4_mlx.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def weights():
    return tiny.weights(tiny.TEXT_CONFIG)


@pytest.fixture
def folder(tmp_path, weights):
    return tiny.save(tmp_path / "model", tiny.TEXT_CONFIG, weights)


@pytest.fixture
def sharded(tmp_path, weights):
    return tiny.save(tmp_path / "model", tiny.TEXT_CONFIG, weights, shards=3)


def refused(folder, *patterns):
    with pytest.raises(CheckpointError) as caught:
        g4.load(folder)
    for pattern in patterns:
        assert pattern in str(caught.value)
    return str(caught.value)


class TestFolders:
    def test_missing(self, tmp_path):
        refused(tmp_path / "nowhere", "nowhere", "does not exist")

    def test_neither_folder_nor_repository(self):
        refused("no such thing", "no such thing", "google/gemma-4-E2B-it")

    def test_a_file(self, folder):
        refused(folder / "model.safetensors", "is a file", "folder")

    def test_empty(self, tmp_path):
        with pytest.raises(ConfigError, match=r"config\.json does not exist"):
            g4.load(tmp_path)

    def test_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        refused(folder, "no weights", "model.safetensors")

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.gguf"])
    def test_pickles_are_never_opened(self, name, folder):
        class Bomb:
            def __reduce__(self):
                return os.mkdir, (str(folder / "exploded"),)

        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(pickle.dumps(Bomb()))
        refused(folder, name, "safetensors")
        assert not (folder / "exploded").exists()

    def test_pickle_named_safetensors(self, folder):
        (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))
        refused(folder, "model.safetensors", "not a whole safetensors file")

    def test_another_models_configuration(self, folder):
        (folder / "config.json").write_text('{"model_type": "llama"}')
        with pytest.raises(ConfigError, match="llama"):
            g4.load(folder)

    def test_foreign_type(self):
        with pytest.raises(CheckpointError, match="int"):
            g4.load(7)


class TestShards:
    def test_missing_shard(self, sharded):
        (sharded / "model-00002-of-00003.safetensors").unlink()
        refused(sharded, "model-00002-of-00003.safetensors", "missing")

    def test_missing_index(self, sharded):
        (sharded / "model.safetensors.index.json").unlink()
        assert g4.load(sharded).config.text.num_hidden_layers == 5  # all shards are there
        (sharded / "model-00002-of-00003.safetensors").unlink()
        refused(sharded, "2 of 3 shards", "model.safetensors.index.json")

    @pytest.mark.parametrize(
        "target",
        [
            "../secret.safetensors",
            "sub/../../a.safetensors",
            "/etc/passwd",
            "/a.safetensors",
            "sub\\a.safetensors",
            "*.safetensors",
            "..",
            "a.bin",
            3,
            None,
        ],
    )
    def test_index_points_elsewhere(self, target, sharded):
        index = sharded / "model.safetensors.index.json"
        data = json.loads(index.read_text())
        data["weight_map"]["model.norm.weight"] = target
        index.write_text(json.dumps(data))
        refused(sharded, "model.norm.weight", repr(target), "in the index's folder")

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}'])
    def test_damaged_index(self, text, sharded):
        (sharded / "model.safetensors.index.json").write_text(text)
        refused(sharded, "index.json")

    def test_index_and_shards_disagree(self, sharded):
        """What the shards' headers say counts; the check of names finds what is missing."""
        index = sharded / "model.safetensors.index.json"
        weight_map = json.loads(index.read_text())["weight_map"]
        first = "model-00001-of-00003.safetensors"
        stale = dict.fromkeys(weight_map, first) | dict.fromkeys(["model.extra"], first)
        stale[tiny.TEXT + "norm.weight"] = "model-00002-of-00003.safetensors"
        index.write_text(json.dumps({"weight_map": stale}))
        assert "missing" in refused(sharded, "does not hold the model")
        index.write_text(json.dumps({"weight_map": weight_map | {"model.extra": first}}))
        assert g4.load(sharded).config.text.num_hidden_layers == 5

    def test_index_of_shards_that_are_gone(self, folder):
        """Left over from before a conversion, which wrote one file."""
        index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        assert g4.load(folder).config.text.num_hidden_layers == 5

    def test_shard_in_a_folder_of_its_own(self, sharded):
        shard = "model-00002-of-00003.safetensors"
        (sharded / "more").mkdir()
        (sharded / shard).rename(sharded / "more" / shard)
        index = sharded / "model.safetensors.index.json"
        index.write_text(index.read_text().replace(f'"{shard}"', f'"more/{shard}"'))
        assert g4.load(sharded).config.text.num_hidden_layers == 5

    @pytest.mark.parametrize("what", ["file", "folder"])
    def test_links_out_of_the_folder(self, what, sharded, tmp_path):
        shard, outside = "model-00002-of-00003.safetensors", tmp_path / "outside"
        outside.mkdir()
        (sharded / shard).rename(outside / shard)
        if what == "file":
            (sharded / shard).symlink_to(outside / shard)
        else:
            (sharded / "more").symlink_to(outside)
            index = sharded / "model.safetensors.index.json"
            index.write_text(index.read_text().replace(f'"{shard}"', f'"more/{shard}"'))
        refused(sharded, "is a link to", "outside")

    def test_a_link_in_place_of_the_only_file(self, folder, tmp_path):
        (folder / "model.safetensors").rename(tmp_path / "x.safetensors")
        (folder / "model.safetensors").symlink_to(tmp_path / "x.safetensors")
        refused(folder, "is a link to", "x.safetensors")

    @pytest.mark.parametrize(
        "name", ["model.safetensors", "config.json", "tokenizer.json", "processor_config.json",
                 "tokenizer_config.json", "chat_template.jinja", "generation_config.json"]
    )  # fmt: skip
    def test_pipes_are_not_waited_for(self, name, folder):
        """In a process of its own: one that waits cannot be stopped otherwise."""
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        code = """
import sys, gemma4_mlx as g4
try:
    g4.load(sys.argv[1])
except g4.errors.Gemma4Error as error:
    print("refused", error)
"""
        command = [sys.executable, "-c", code, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "" or name in done.stdout

    def test_links_of_the_hubs_cache(self, sharded, tmp_path):
        """snapshots/COMMIT/x.safetensors -> ../../blobs/HASH."""
        snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
        blobs = tmp_path / "models--a--b" / "blobs"
        snapshot.mkdir(parents=True), blobs.mkdir()
        for file in sharded.iterdir():
            file.rename(blobs / f"hash-{file.stem}")
            (snapshot / file.name).symlink_to(f"../../blobs/hash-{file.stem}")
        assert g4.load(snapshot).config.text.num_hidden_layers == 5

    def test_tensor_in_two_places(self, folder, weights):
        name = tiny.TEXT + "norm.weight"
        both = weights | {"model.norm.weight": weights[name]}
        tiny.save(folder, tiny.TEXT_CONFIG, both)
        refused(folder, "model.norm.weight", name)


def header(entries: dict, data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


class TestHeaders:
    @pytest.mark.parametrize("keep", [0, 5, 8, 100, -1, -1000])
    def test_cut_short(self, keep, folder):
        file = folder / "model.safetensors"
        data = file.read_bytes()
        file.write_bytes(data[:keep])
        refused(folder, "model.safetensors")

    @pytest.mark.parametrize("length", [0, 1, 1 << 20, LARGEST_HEADER + 1, (1 << 64) - 1])
    def test_impossible_length(self, length, tmp_path):
        file = tmp_path / "x.safetensors"
        file.write_bytes(header({"a": ENTRY}, bytes(16), length))
        with pytest.raises(CheckpointError, match=r"x\.safetensors"):
            list(read_header(file))

    @pytest.mark.parametrize(
        "change",
        [
            {"dtype": "F99"},
            {"dtype": None},
            {"dtype": ["F32"]},
            {"shape": [2, 3]},
            {"shape": [-2, -2]},
            {"shape": [2.0, 2]},
            {"shape": [True, 4]},
            {"shape": "22"},
            {"shape": [1 << 40, 1 << 40]},
            {"shape": [1] * 9 + [4]},
            {"data_offsets": [0, 17]},
            {"data_offsets": [16, 32]},
            {"data_offsets": [-16, 0]},
            {"data_offsets": [16, 0]},
            {"data_offsets": [0]},
            {"data_offsets": None},
        ],
    )
    def test_impossible_entries(self, change, tmp_path):
        file = tmp_path / "x.safetensors"
        file.write_bytes(header({"a.weight": ENTRY | change}, bytes(16)))
        with pytest.raises(CheckpointError, match=r"x\.safetensors.*a\.weight|a\.weight"):
            list(read_header(file))

    @pytest.mark.parametrize("text", [b"[]", b"nonsense", b"\xff\xfe12", b'{"a": 1}', b"[" * 5000])
    def test_header_is_no_object(self, text, tmp_path):
        file = tmp_path / "x.safetensors"
        file.write_bytes(struct.pack("<Q", len(text)) + text)
        with pytest.raises(CheckpointError, match=r"x\.safetensors"):
            list(read_header(file))

    def test_one_name_twice(self, tmp_path):
        entry = json.dumps(ENTRY)
        text = ('{"a": %s, "a": %s}' % (entry, entry)).encode()  # noqa: UP031
        file = tmp_path / "x.safetensors"
        file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
        with pytest.raises(CheckpointError, match="a stands in the header twice"):
            list(read_header(file))

    @pytest.mark.parametrize("at", [0, 4, 15])
    def test_shared_bytes(self, at, tmp_path):
        file = tmp_path / "x.safetensors"
        other = {"dtype": "U8", "shape": [4], "data_offsets": [at, at + 4]}
        nothing = {"dtype": "U8", "shape": [0], "data_offsets": [8, 8]}
        file.write_bytes(header({"a": ENTRY, "n": nothing, "b": other}, bytes(20)))
        with pytest.raises(CheckpointError, match="share bytes"):
            list(read_header(file))

    def test_good(self, tmp_path):
        file = tmp_path / "x.safetensors"
        file.write_bytes(header({"__metadata__": {"a": "b"}, "a": ENTRY}, bytes(16)))
        (stored,) = read_header(file)
        assert (stored.name, stored.shape, stored.nbytes) == ("a", (2, 2), 16)


class TestTensors:
    def test_everything_wrong_is_named_at_once(self, folder, weights):
        base = tiny.TEXT + "layers.1."
        wrong = dict(weights)
        del wrong[base + "mlp.up_proj.weight"]
        del wrong[tiny.TEXT + "norm.weight"]
        wrong[base + "self_attn.q_proj.weight"] = mx.zeros((7, 128))
        wrong[base + "layer_scalar"] = mx.zeros((1,), dtype=mx.int32)
        wrong["model.layers.1.self_attn.sinks"] = mx.zeros((4,))
        wrong["mystery"] = mx.zeros((3, 3))
        tiny.save(folder, tiny.TEXT_CONFIG, wrong)
        message = refused(
            folder,
            str(folder),
            f"missing: {base}mlp.up_proj.weight: expected shape (192, 128)",
            f"missing: {tiny.TEXT}norm.weight: expected shape (128,)",
            f"misshapen: {base}self_attn.q_proj.weight: has shape (7, 128), expected (128, 128)",
            f"misshapen: {base}layer_scalar: has dtype I32, expected BF16 or F16 or F32",
            "unexpected: model.layers.1.self_attn.sinks: shape (4,)",
            "unexpected: mystery: shape (3, 3)",
        )
        assert message.count("\n") == 6

    def test_many_layers_share_a_line(self, folder, weights):
        kept = {n: v for n, v in weights.items() if "up_proj" not in n}
        refused(
            tiny.save(folder, tiny.TEXT_CONFIG, kept),
            "layers.2.mlp.up_proj.weight: expected shape (192, 128)",  # few: a line each
            "layers.{0-4}.experts.switch_glu.up_proj.weight: expected shape (8, 64, 128)",
        )

    def test_part_of_a_tower(self, tmp_path):
        weights = tiny.weights(tiny.CONFIG)
        del weights["vision_tower.encoder.layers.0.mlp.up_proj.input_max"]
        folder = tiny.save(tmp_path, tiny.CONFIG, weights)
        refused(folder, "missing: vision_tower.encoder.layers.0.mlp.up_proj.input_max")

    def test_odd_gate_up(self, folder, weights):
        stored = tiny.torch_layout(weights, tiny.text_only)
        name = "model.layers.0.experts.gate_up_proj"
        stored[name] = stored[name][:, :101]
        tiny.save(folder, tiny.TEXT_CONFIG, stored)
        refused(folder, "gate_proj.weight: has shape (8, 50, 128), expected (8, 64, 128)")
