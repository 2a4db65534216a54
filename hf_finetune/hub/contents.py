"""The files of a finished run that a push sends: those of its manifest, its card and its plots, without pickles, code
or secrets."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.hf_api import RepoFile

from hf_finetune.errors import GateError, InputError
from hf_finetune.hub import plots
from hf_finetune.hub.card import PLACEHOLDER
from hf_finetune.hub.eval_results import eval_results_file
from hf_finetune.hub.local_paths import is_local, last_name, without_local_paths
from hf_finetune.hub.run_facts import RESTORE, read_documents
from hf_finetune.utils.artifacts import (
    ADAPTER_WITHOUT_BASE,
    CLASSICAL_FILE,
    EXPORT_FILE,
    GRAPH_FILE,
    HEAD_FILE,
    PIPELINE_FILE,
    artifacts_in,
)
from hf_finetune.utils.files import read_json
from hf_finetune.utils.manifest import LOADED_FROM_ROOT, Manifest

NEVER_PUSHED = {
    "a pickle": (
        *("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.joblib", "*.ckpt"),
        *("optimizer*", "rng_state*"),
    ),
    "a checkpoint or log": (
        *("checkpoint-*", "checkpoints", "runs", "trainer_state.json"),
        *("*.log", "log.jsonl", "events.out.tfevents.*"),
    ),
    "code": ("*.py", "*.pyc", "*.so"),
}
"""Patterns of file and folder names, by what they are."""
ALWAYS_PUSHED = ("README.md", "result.json", "recipe.json")
OF_ARTIFACTS = (*LOADED_FROM_ROOT, PIPELINE_FILE, CLASSICAL_FILE, GRAPH_FILE, EXPORT_FILE)
"""Names of files of artifacts."""
ADAPTER_CONFIG = "adapter/adapter_config.json"
SECRET_PATTERN = re.compile(
    rb"hf_[A-Za-z0-9]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY"
    # GitHub, GitLab, PyPI, Amazon, Google, Slack, and services whose keys begin with sk-.
    rb"|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50}|glpat-[A-Za-z0-9_-]{20}|pypi-AgE[A-Za-z0-9_-]{50}"
    rb"|(?<![A-Za-z0-9])A[KS]IA[A-Z0-9]{16}(?![A-Za-z0-9])|AIza[A-Za-z0-9_-]{35}|xox[abprs]-[0-9]+-[A-Za-z0-9-]{20}"
    rb"|(?<![A-Za-z0-9])sk-(?:[a-z]+-)?[A-Za-z0-9_-]{40}"
)
CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class Outgoing:
    """A file to push."""

    content: Path | bytes
    sha256: str
    blob_id: str
    """Git's hash of the content."""

    def equals(self, remote: RepoFile) -> bool:
        """Return whether the file on the Hub has the same content."""
        return remote.lfs.sha256 == self.sha256 if remote.lfs is not None else remote.blob_id == self.blob_id


def collect(
    run_dir: Path,
    repo_id: str,
    *,
    include_predictions: bool = False,
    benchmark: str | None = None,
    token: str = "",
) -> dict[str, Outgoing]:
    """Return the files that a push of the run sends, by path in the repository.

    The files of model/ go to the root of the repository, those of adapter/, encoder/ and plots/ into folders of that
    name. The card, result.json and recipe.json have local paths reduced to names. With a benchmark, by the argument or
    else in the recipe, the Hub's evaluation results are among them, see `eval_results.eval_results_file`.

    Raises:
        InputError: an unfinished run, or a file that is never pushed: a pickle, code, checkpoint, log, a link out of
            the run's folder, a file that contains an access token or a private key, or, in a run of an earlier version,
            one whose name no run writes.
        GateError: a parity check of the run failed, or none was made; or the run's files are not those of its manifest.
    """
    recipe, result = _finished_run(run_dir)
    manifest = Manifest.find(run_dir)
    if artifacts_in(run_dir).get("model") == run_dir:
        raise InputError(f"{run_dir}: a model outside model/; expected the folder of a finished run")
    contents: dict[str, Path | bytes] = {**_model_files(run_dir, manifest)}
    if ADAPTER_CONFIG in contents:
        contents[ADAPTER_CONFIG] = portable = _portable_adapter(run_dir, recipe, result)
        if manifest is not None:
            # The manifest of the repository.
            result["artifacts"] |= {ADAPTER_CONFIG: hashlib.sha256(portable).hexdigest()}
    contents |= {file: _inside(run_dir, run_dir / file) for file in plots.FILES if (run_dir / file).is_file()}
    if include_predictions:
        if not (run_dir / "predictions.parquet").is_file():
            raise InputError(f"{run_dir}: no predictions.parquet to include")
        contents["predictions.parquet"] = run_dir / "predictions.parquet"
    if named := benchmark or (recipe["recipe"].get("hub") or {}).get("benchmark"):
        path, content = eval_results_file(named, recipe["recipe"], result)
        contents[path] = content
    contents["README.md"] = _card_for(run_dir / "README.md", repo_id, recipe).encode()
    for name, value in (("result.json", result), ("recipe.json", recipe)):
        contents[name] = _portable_json(run_dir / name, value)
    for path in contents:
        _check_name(path)
    files = {path: _outgoing(path, content, token) for path, content in sorted(contents.items())}
    if manifest is not None:
        # adapter_config.json may be sent in another form than that of the run.
        sent = {file.content: file.sha256 for file in files.values() if isinstance(file.content, Path)}
        manifest.check(hashed=sent)
    return files


def _model_files(run_dir: Path, manifest: Manifest | None) -> dict[str, Path]:
    """Return the files of the model and its adapter by path in the repository."""
    if manifest is None:
        return _files_without_manifest(run_dir)
    # That no file is missing or was added; `collect` compares their content, where it is read.
    manifest.check(hashed={manifest.location(file): sha256 for file, sha256 in manifest.hashes.items()})
    _check_artifacts(map(_place, manifest.hashes))
    return {_place(file): run_dir / file for file in manifest.hashes}


def _portable_json(path: Path, value: dict[str, Any]) -> bytes:
    """Return the content of a document of the run as it is pushed, without local paths."""
    try:
        text = json.dumps(without_local_paths(value), indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise InputError(f"{path}: a number in it is not finite; nothing is pushed") from None
    return (text + "\n").encode()


def _place(file: str) -> str:
    """Return the path in the repository of a file of the manifest."""
    return file.removeprefix("model/")


def _files_without_manifest(run_dir: Path) -> dict[str, Path]:
    """Return the files of the artifacts of a run of an earlier version, by path in the repository.

    Raises:
        InputError: there is none, or a file has a name that no run writes.
    """
    contents: dict[str, Path] = {}
    for kind, folder in artifacts_in(run_dir).items():
        contents |= _files_in(folder, "" if kind == "model" else f"{kind}/")
        if kind == "encoder":
            contents[HEAD_FILE] = run_dir / HEAD_FILE
    if not contents:
        raise InputError(f"{run_dir}: no model/, encoder/ or adapter/ in it; expected the folder of a finished run")
    _check_artifacts(contents)
    return contents


def _check_artifacts(paths: Iterable[str]) -> None:
    """Refuse a name that no run writes: whoever adds a file may add it to the manifest, too.

    Raises:
        InputError: naming the file.
    """
    for path in paths:
        _check_name(path)
        if not any(fnmatch.fnmatch(path.split("/")[-1], pattern) for pattern in OF_ARTIFACTS):
            raise InputError(
                f"{path}: not a file of a model, a tokenizer or an image processor; remove it from the run's folder"
            )


def _finished_run(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of recipe.json and result.json of a run whose parity checks passed."""
    recipe, result = read_documents(run_dir)
    if not (run_dir / "README.md").is_file():
        raise InputError(f"{run_dir}: no README.md; expected the folder of a finished run")
    checks = result.get("parity") or {}
    if not checks:
        raise GateError(f"{run_dir}: result.json records no parity check; nothing is pushed unverified")
    for name, check in checks.items():
        if (check or {}).get("ok") is not True:
            raise GateError(f"{run_dir}: the parity check {name!r} failed; nothing is pushed")
    return recipe, result


def _files_in(folder: Path, prefix: str) -> dict[str, Path]:
    """Return the files of an artifact but its own README.md and hidden files, by prefixed path."""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_file() or str(relative) == "README.md" or any(p.startswith(".") for p in relative.parts):
            continue
        files[prefix + relative.as_posix()] = _inside(folder, path)
    return files


def _inside(folder: Path, path: Path) -> Path:
    """Return the path of a file, unless it is a link out of the folder."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path}: a link out of the run's folder; put the file itself there")
    return path


def named_base(recipe: Mapping[str, Any]) -> str | None:
    """Return the Hub id that recipe.json gives for a local checkpoint (`--base-model`), or None."""
    return (recipe["recipe"].get("model") or {}).get("base_model")


def _portable_adapter(run_dir: Path, recipe: Mapping[str, Any], result: Mapping[str, Any]) -> bytes:
    """Return adapter_config.json with the Hub id of the base model in place of a local path.

    Raises:
        InputError: the base model is the result of another run and has no Hub id.
    """
    content = (run_dir / ADAPTER_CONFIG).read_bytes()
    config = read_json(run_dir / ADAPTER_CONFIG, RESTORE)
    base = config.get("base_model_name_or_path") or ""
    if not base or not (is_local(base) or Path(base).exists()):
        return content
    base_id, earlier_run = named_base(recipe), result.get("started_from")
    if earlier_run and not base_id:
        raise InputError(f"{run_dir}: {ADAPTER_WITHOUT_BASE.format(earlier_run['name'])}")
    config["base_model_name_or_path"] = base_id or result.get("base_model") or last_name(base)
    return json.dumps(config, indent=2, sort_keys=True).encode()


def _card_for(path: Path, repo_id: str, recipe: Mapping[str, Any]) -> str:
    """Return the card with snippets that load from this repository."""
    text = path.read_text(encoding="utf-8")
    planned = (recipe["recipe"].get("hub") or {}).get("repo_id")
    for name in filter(None, (f"{PLACEHOLDER}/model", PLACEHOLDER, planned)):
        text = text.replace(f'"{name}"', f'"{repo_id}"')
    return text


def _check_name(path: str) -> None:
    for part in path.lower().split("/"):
        for kind, patterns in NEVER_PUSHED.items():
            if any(fnmatch.fnmatch(part, pattern) for pattern in patterns):
                raise InputError(f"{path}: {kind} is never pushed; remove it from the run's folder")


def _outgoing(path: str, content: Path | bytes, token: str) -> Outgoing:
    """Hash a file, and refuse it if it is a pickle or contains a token."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    secret, tail = token.encode(), b""
    for chunk in _chunks(content):
        sha256.update(chunk)
        blob.update(chunk)
        window = tail + chunk
        if (secret and secret in window) or SECRET_PATTERN.search(window):
            raise InputError(f"{path}: it contains an access token or a private key; remove it, revoke it, push again")
        # A token may lie across two chunks.
        tail = window[-max(len(secret), 256) :]
    if isinstance(content, Path) and _is_pickle(content):
        raise InputError(f"{path}: its content is a pickle, which is never pushed; remove it from the run's folder")
    return Outgoing(content, sha256.hexdigest(), blob.hexdigest())


def _chunks(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _is_pickle(path: Path) -> bool:
    """Return whether the content was written by pickle or torch.save."""
    with path.open("rb") as file:
        start = file.read(16)
    if path.suffix == ".safetensors":
        # Eight bytes of length, which may look like a pickle's, then JSON.
        return start[8:9] != b"{"
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return True
    if start[:4] != b"PK\x03\x04":
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".pkl") for name in archive.namelist())
