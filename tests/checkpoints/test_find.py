"""Folders before the hub, only the files needed, and clear errors; no network is used."""

import json
import shutil
from fnmatch import fnmatch
from types import SimpleNamespace

import httpx
import huggingface_hub
import mlx.core as mx
import pytest
import tiny
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import gemma4_mlx as g4
from gemma4_mlx.errors import CheckpointError, ConfigError

REPO = "someone/gemma-4-tiny"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of one repository; ``.asked`` lists what was requested of it."""
    remote, cache = tmp_path / "remote", tmp_path / "cache"
    tiny.save(remote, tiny.TEXT_CONFIG, tiny.weights(tiny.TEXT_CONFIG), shards=3)
    for extra in ("consolidated.safetensors", "pytorch_model.bin", "README.md", "modeling.py"):
        (remote / extra).write_bytes(b"not for us")
    (remote / "generation_config.json").write_text("{}")
    asked = []

    def snapshot_download(repo, revision=None, allow_patterns=None):
        asked.append((repo, revision))
        cache.mkdir(exist_ok=True)
        for file in remote.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, cache)
        return str(cache)

    def list_repo_files(repo, revision=None):
        return [file.name for file in remote.iterdir()]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", list_repo_files)
    return SimpleNamespace(remote=remote, cache=cache, asked=asked)


def test_fetches_what_is_needed(hub):
    model = g4.load(REPO, revision="v1")
    assert model.source == REPO
    assert set(hub.asked) == {(REPO, "v1")}
    fetched = {file.name for file in hub.cache.iterdir()}
    assert fetched == {
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        *(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
    }


def test_another_models_weights_are_not_fetched(hub):
    (hub.remote / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ConfigError, match="llama"):
        g4.load(REPO)
    assert not list(hub.cache.glob("*.safetensors"))


def test_hostile_index_is_refused_before_the_weights(hub):
    index = {"weight_map": {"a": "../../x.safetensors"}}
    (hub.remote / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="in the index's folder"):
        g4.load(REPO)


def test_a_folder_comes_first(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.save(tmp_path / REPO, tiny.TEXT_CONFIG, tiny.weights(tiny.TEXT_CONFIG))
    g4.load(REPO)
    assert hub.asked == []


@pytest.mark.parametrize(
    "name", ["gemma", "a/b/c", "../x/y", "/x/y", "a b/c", "", "-x/y", "x" * 5000]
)
def test_what_is_no_repository_id_is_not_looked_up(name, hub):
    with pytest.raises(CheckpointError):
        g4.load(name)
    assert hub.asked == []


def test_the_environment_is_named_where_it_is_at_fault(hub, monkeypatch):
    monkeypatch.setenv("GEMMA4_MODEL", "/no/such/folder")
    with pytest.raises(CheckpointError, match=r"GEMMA4_MODEL.*'/no/such/folder' is no folder"):
        g4.load()
    monkeypatch.setenv("GEMMA4_MODEL", REPO)
    assert g4.load().source == REPO


def test_nothing_given_nothing_fetched(hub):
    g4.load()
    assert hub.asked == []


RESPONSE = httpx.Response(404, request=httpx.Request("GET", "https://example.org"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GatedRepoError("x", response=RESPONSE), "licence"),
        (RepositoryNotFoundError("x", response=RESPONSE), "no such repository"),
        (RevisionNotFoundError("x", response=RESPONSE), "no revision 'v9'"),
        (LocalEntryNotFoundError("x"), "cannot be reached"),
        (HfHubHTTPError("503 busy", response=RESPONSE), "503 busy"),
        (OSError(28, "No space left on device"), "No space left"),
        (httpx.ConnectError("name resolution failed"), "name resolution failed"),
    ],
)
def test_failures_are_explained(error, said, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError) as caught:
        g4.load(REPO, revision="v9")
    assert said in str(caught.value) and REPO in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_offline_for_real(monkeypatch, tmp_path):
    """huggingface_hub itself, switched offline with an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="cannot be reached"):
        g4.load(REPO)


def test_towers_beside_the_shards_are_fetched(hub):
    """The index names no tower though config.json describes one; names alone are known yet."""
    config = tiny.CONFIG | {"text_config": tiny.TEXT_CONFIG}
    weights = tiny.weights(config)
    text = {n: v for n, v in weights.items() if n.startswith(tiny.TEXT)}
    towers = {n: v for n, v in weights.items() if not n.startswith(tiny.TEXT)}
    for file in hub.remote.iterdir():
        file.unlink()
    tiny.save(hub.remote, config, text, shards=2)
    mx.save_safetensors(str(hub.remote / "optiq_vision.safetensors"), towers)
    mx.save_safetensors(str(hub.remote / "adapters.safetensors"), {"a": mx.zeros(1)})
    assert g4.load(REPO).config.vision is not None
    assert not (hub.cache / "adapters.safetensors").exists()


class TestTheHubsCache:
    @pytest.fixture
    def cached(self, tmp_path):
        folder = tmp_path / "models--google--gemma-4-E2B-it"
        weights = tiny.weights(tiny.TEXT_CONFIG)
        tiny.save(folder / "snapshots" / "0a1b", tiny.TEXT_CONFIG, weights)
        return folder

    def test_is_found(self, cached):
        assert g4.load(cached).config.text.num_hidden_layers == 5

    def test_what_main_points_to(self, cached):
        (cached / "snapshots" / "older").mkdir()
        with pytest.raises(CheckpointError, match="2 snapshots"):
            g4.load(cached)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0a1b")
        assert g4.load(cached).config.text.num_hidden_layers == 5
        (cached / "refs" / "main").write_text("../../..")
        with pytest.raises(CheckpointError, match="2 snapshots"):
            g4.load(cached)


@pytest.mark.parametrize("file", ["adapters.safetensors", "adapter_model.bin"])
def test_an_adapter_is_no_model(file, tmp_path):
    (tmp_path / file).write_bytes(b"")
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "google/x"}')
    with pytest.raises(CheckpointError, match=r"adapter.*google/x"):
        g4.load(tmp_path)


class TestGGUFRepositories:
    """With config.json and without; one model beside its towers, or several."""

    @pytest.fixture
    def names(self, hub):
        files = pytest.importorskip("gguf_files")
        text = tiny.TEXT_CONFIG
        for file in hub.remote.iterdir():
            file.unlink()

        def put(*names, config=False):
            weights = files.text_weights(text)
            for name in names:
                files.write(hub.remote / name, text, weights, lambda *_: "F32")
            (hub.remote / "mmproj-F16.gguf").write_bytes(b"GGUF")
            if config:
                (hub.remote / "config.json").write_text(json.dumps(text))

        return put

    @pytest.mark.parametrize("config", [True, False])
    def test_one(self, config, hub, names):
        names("gemma-4-E2B_q4_0-it.gguf", config=config)
        assert g4.load(REPO).source == REPO
        assert not (hub.cache / "mmproj-F16.gguf").exists()

    def test_several(self, hub, names):
        names("m-Q4_K_M.gguf", "m-Q8_0.gguf")
        with pytest.raises(CheckpointError, match=rf"2 GGUF files; name one, as in {REPO}/m-Q"):
            g4.load(REPO)
        g4.load(f"{REPO}/m-Q8_0.gguf")
        assert [file.name for file in hub.cache.glob("*.gguf")] == ["m-Q8_0.gguf"]

    def test_none(self, hub, names):
        names()
        with pytest.raises(ConfigError, match=r"config\.json does not exist"):
            g4.load(REPO)

    def test_a_path_that_leads_out_is_no_name(self, hub):
        for name in (f"{REPO}/../x.gguf", f"{REPO}//x.gguf", "a/b/c/d"):
            with pytest.raises(CheckpointError, match="no folder here"):
                g4.load(name)
        assert hub.asked == []
