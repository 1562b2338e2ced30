"""Where a checkpoint is: a folder, or a repository of the Hugging Face hub.

Nothing is downloaded unless a repository id was given and no folder of that name exists. The
configuration comes first, so that another model's weights are refused before they are fetched.
"""

import os
import re
from pathlib import Path

from ..config import Gemma4Config
from ..errors import CheckpointError, Gemma4Error
from .files import index_map, read_json
from .released import released
from .towers import SIDE_FILES, holds

TEACHING = Path(__file__).parent.parent / "teaching" / "checkpoint"
#: Files that hold an adapter's weights: mlx-lm's, PEFT's, and PEFT's pickled ones.
_ADAPTERS = ("adapters.safetensors", "adapter_model.safetensors", "adapter_model.bin")
#: GGUF files that are no model: towers, and all parts of a split one but the first.
_SIDE_GGUF = re.compile(r"mmproj|-(?!00001)\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
#: A GGUF file of a repository, by its path there.
_REPO_GGUF = re.compile(rf"({_REPO_ID.pattern})/((?:\w[\w.-]*/)*\w[\w.-]*\.gguf)")
_INDEX = "model.safetensors.index.json"
_SMALL_FILES = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    _INDEX,
]


def named_in_environment() -> str | None:
    """What ``GEMMA4_MODEL`` names; None where it is not set, or empty."""
    return os.environ.get("GEMMA4_MODEL") or None


def find(path_or_repo: str | Path | None, revision: str | None = None) -> Path:
    """The folder that holds the checkpoint, or the file if it is a GGUF.

    None is what the environment variable ``GEMMA4_MODEL`` names (so that a whole notebook runs
    on another model without an edit), without it the embedded teaching model.

    Raises:
        CheckpointError: no such folder and no repository id, a folder that cannot be looked into,
            or the download failed.
    """
    if path_or_repo is None:
        named = named_in_environment()
        if named is None:
            return TEACHING
        try:
            return find(named, revision)
        except CheckpointError as error:
            raise CheckpointError(f"GEMMA4_MODEL in the environment: {error}") from None
    if not isinstance(path_or_repo, str | Path):
        raise CheckpointError(
            f"expected a folder or a repository id, found {type(path_or_repo).__name__}"
        )
    if not str(path_or_repo).strip():
        raise CheckpointError("an empty name; expected a folder or a repository id")
    path = Path(path_or_repo).expanduser()
    try:
        if path.exists() or isinstance(path_or_repo, Path):
            return _folder(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be looked into: {error.strerror}") from None
    if gguf := _REPO_GGUF.fullmatch(path_or_repo):
        return _download(gguf[1], revision, gguf[2])
    if not _REPO_ID.fullmatch(path_or_repo):
        raise CheckpointError(
            f"{path_or_repo!r} is no folder here, and not the id of a repository either "
            f"(such as {_repository_like(path_or_repo)})"
        )
    return _download(path_or_repo, revision)


def _repository_like(name: str) -> str:
    """The repository that someone may mean who writes "e2b", as in ``fit``."""
    try:
        return released(name).repo
    except Gemma4Error:
        return "google/gemma-4-E2B-it"


def _folder(path: Path) -> Path:
    if path.is_dir():
        return _with_model(path)
    if path.suffix == ".gguf" and path.exists():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file; give the folder that holds it and config.json")
    raise CheckpointError(f"the folder {path} does not exist")


def _weight_files(folder: Path, config: Gemma4Config) -> list[str]:
    """Names and patterns of the files to fetch: what the index names, and files of towers that
    the configuration has and the index leaves out."""
    if not (folder / _INDEX).is_file():
        return ["model*.safetensors", *SIDE_FILES]
    named = index_map(folder / _INDEX)
    lacking = any(getattr(config, k) and not holds(k, config, named) for k in ("vision", "audio"))
    return sorted(set(named.values())) + (SIDE_FILES if lacking else [])


def _with_model(folder: Path) -> Path:
    """The folder itself, the one in it where the hub's cache keeps a model, or its GGUF file."""
    if (folder / "config.json").exists():
        return folder
    if (folder / "snapshots").is_dir():
        return _snapshot(folder)
    adapter = next((folder / n for n in _ADAPTERS if (folder / n).is_file()), None)
    if adapter is not None:
        about = folder / "adapter_config.json"
        about = read_json(about) if about.is_file() else {}
        base = about.get("base_model_name_or_path") or about.get("model") or "the model it is for"
        raise CheckpointError(
            f"{folder} holds an adapter ({adapter.name}) and no model: load {base} with "
            "adapter= this folder"
        )
    if ggufs := [p for p in sorted(folder.glob("*.gguf")) if not _SIDE_GGUF.search(p.name)]:
        if len(ggufs) > 1:
            names = ", ".join(p.name for p in ggufs[:6])
            raise CheckpointError(f"{folder} holds {len(ggufs)} GGUF files; name one: {names}")
        return ggufs[0]
    return folder


def _snapshot(folder: Path) -> Path:
    """A folder ``models--org--name`` of the hub's cache: the snapshot that main points to, or the
    only one."""
    snapshots = sorted(p for p in (folder / "snapshots").iterdir() if p.is_dir())
    main = folder / "refs" / "main"
    if main.is_file():
        commit = main.read_text(encoding="utf-8", errors="replace").strip()
        snapshots = [p for p in snapshots if p.name == commit] or snapshots
    if len(snapshots) != 1:
        raise CheckpointError(
            f"{folder} of the hub's cache holds {len(snapshots)} snapshots; give the folder of one "
            "of them, or the repository's id"
        )
    return snapshots[0]


def _only_gguf(repo: str, names: list[str]) -> str | None:
    """The one GGUF model among a repository's files; None where there is none."""
    ggufs = [n for n in names if n.endswith(".gguf") and not _SIDE_GGUF.search(n)]
    if len(ggufs) > 1:
        raise CheckpointError(
            f"{repo} holds {len(ggufs)} GGUF files; name one, as in {repo}/{ggufs[0]}: "
            + ", ".join(ggufs)
        )
    return ggufs[0] if ggufs else None


def _parts(file: str) -> list[str]:
    """The files of a GGUF model that may be split, as patterns."""
    escaped = re.sub(r"([*?[])", r"[\1]", file)
    return [re.sub(r"-00001-of-(\d{5})\.gguf$", r"-*-of-\1.gguf", escaped)]


def find_adapter(path_or_repo: str | Path) -> Path:
    """The folder that holds an adapter. Raises CheckpointError as :func:`find` does."""
    path = Path(path_or_repo).expanduser()
    if path.is_dir():
        return _snapshot(path) if (path / "snapshots").is_dir() else path
    if isinstance(path_or_repo, Path) or path.exists() or not _REPO_ID.fullmatch(path_or_repo):
        raise CheckpointError(
            f"{path_or_repo} is no folder here, and not the id of a repository; expected one with "
            "an adapter in it"
        )
    files = [name for name in _ADAPTERS if name.endswith(".safetensors")]
    return _download(path_or_repo, None, only=["adapter_config.json", *files])


def _download(
    repo: str, revision: str | None, file: str | None = None, only: list[str] | None = None
) -> Path:
    """Fetch what is needed of a repository into the hub's cache; resumes what was cut off.

    Args:
        file: a GGUF file of it, which then is all that is needed.
        only: all that is needed, of a repository that is no model.
    """
    import huggingface_hub
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def fetch(patterns: list[str]) -> Path:
        return Path(
            huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=patterns)
        )

    try:
        if only:
            return fetch(only)
        if file:
            return fetch(_parts(file)) / file
        folder = fetch(_SMALL_FILES)
        if (folder / "config.json").is_file():
            fetch(_weight_files(folder, Gemma4Config.from_file(folder)))
            if any(folder.rglob("*.safetensors")):
                return folder
        names = huggingface_hub.list_repo_files(repo, revision=revision)
        if file := _only_gguf(repo, names):
            return fetch(_parts(file)) / file
        return folder  # reading it says what is missing
    except GatedRepoError:
        reason = "its licence must be accepted on its page, and `hf auth login` run here"
    except RevisionNotFoundError:
        reason = f"it has no revision {revision!r}"
    except RepositoryNotFoundError:
        reason = "no such repository, or it is private and needs `hf auth login`"
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        reason = "the hub cannot be reached and this machine's cache does not hold all of it"
    except Gemma4Error:
        raise
    except Exception as error:  # whatever the HTTP library of this version of the hub's raises
        reason = str(error).strip() or type(error).__name__
    raise CheckpointError(f"{repo} is no folder here, and fetching it failed: {reason}")
