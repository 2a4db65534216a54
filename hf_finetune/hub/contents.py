"""What a push sends: the files of a finished run that others can use, and nothing that could harm them or its owner."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.hf_api import RepoFile

from hf_finetune.errors import GateError, InputError
from hf_finetune.hub.card import PLACEHOLDER
from hf_finetune.hub.local_paths import is_local, last_name, without_local_paths
from hf_finetune.hub.run_facts import read_documents
from hf_finetune.utils.artifacts import ALONE_AFTER_A_RUN, HEAD_FILE, artifacts_in

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.joblib", "*.ckpt", "optimizer*", "rng_state*")
LEFTOVERS = ("checkpoint-*", "checkpoints", "runs", "*.log", "log.jsonl", "events.out.tfevents.*", "trainer_state.json")
CODE = ("*.py", "*.pyc", "*.so")
ALWAYS_PUSHED = ("README.md", "result.json", "recipe.json")
TOKEN_SHAPE = re.compile(rb"hf_[A-Za-z0-9]{30,}")
CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class Outgoing:
    """One file on its way."""

    content: Path | bytes
    sha256: str
    blob_id: str
    """What git calls the content."""

    def is_at(self, remote: RepoFile) -> bool:
        """Whether the Hub has the same content."""
        return remote.lfs.sha256 == self.sha256 if remote.lfs is not None else remote.blob_id == self.blob_id


def collect(run_dir: Path, repo_id: str, *, include_predictions: bool = False, token: str = "") -> dict[str, Outgoing]:
    """Everything that a push of the run sends, by path in the repository.

    Raises:
        InputError: see `push`, and `_portable_adapter`.
        GateError: a parity check of the run failed, or none was made.
    """
    recipe, result = _finished_run(run_dir)
    found: dict[str, Path | bytes] = {}
    for kind, folder in artifacts_in(run_dir).items():
        if folder == run_dir:
            raise InputError(f"{run_dir}: a model outside model/; expected the folder of a finished run")
        found |= _below(folder, "" if kind == "model" else f"{kind}/")
        if kind == "encoder":
            found[HEAD_FILE] = run_dir / HEAD_FILE
    if not found:
        raise InputError(f"{run_dir}: no model/, encoder/ or adapter/ in it; expected the folder of a finished run")
    if "adapter/adapter_config.json" in found:
        found["adapter/adapter_config.json"] = _portable_adapter(run_dir, recipe, result)
    if include_predictions:
        if not (run_dir / "predictions.parquet").is_file():
            raise InputError(f"{run_dir}: no predictions.parquet to include")
        found["predictions.parquet"] = run_dir / "predictions.parquet"
    found["README.md"] = _card_for(run_dir / "README.md", repo_id, recipe).encode()
    for name, value in (("result.json", result), ("recipe.json", recipe)):
        text = json.dumps(without_local_paths(value), indent=2, ensure_ascii=False, allow_nan=False)
        found[name] = (text + "\n").encode()
    for path in found:
        _refuse_name(path)
    return {path: _outgoing(path, content, token) for path, content in sorted(found.items())}


def _finished_run(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """recipe.json and result.json of a run that passed its gates."""
    recipe, result = read_documents(run_dir)
    if not (run_dir / "README.md").is_file():
        raise InputError(f"{run_dir}: no README.md; expected the folder of a finished run")
    checks = result.get("parity") or {}
    if not checks:
        raise GateError(f"{run_dir}: result.json records no parity check; nothing is pushed unverified")
    for name, check in checks.items():
        if check.get("ok") is not True:
            raise GateError(f"{run_dir}: the parity check {name!r} failed; nothing is pushed")
    return recipe, result


def _below(folder: Path, prefix: str) -> dict[str, Path | bytes]:
    """Files under `folder`; the run has one card, its own, and hidden files belong to other programs."""
    found: dict[str, Path | bytes] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if not path.is_file() or inside.as_posix() == "README.md" or any(p.startswith(".") for p in inside.parts):
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{path}: a link out of the run's folder; put the file itself there")
        found[prefix + inside.as_posix()] = path
    return found


def named_base(recipe: dict[str, Any]) -> str | None:
    """The Hub id by which the user calls the checkpoint, a local folder; None: they did not name it.

    Args:
        recipe: recipe.json of a run.
    """
    return recipe.get("recipe", {}).get("model", {}).get("base_model")


def _portable_adapter(run_dir: Path, recipe: dict[str, Any], result: dict[str, Any]) -> bytes:
    """adapter_config.json that names its base model by Hub id, where PEFT wrote where the checkpoint lay.

    Raises:
        InputError: the checkpoint is what another run left, whose own base model is another one.
    """
    path = run_dir / "adapter" / "adapter_config.json"
    content = path.read_bytes()
    config = json.loads(content)
    base = config.get("base_model_name_or_path") or ""
    if base and (is_local(base) or Path(base).exists()):
        named, before = named_base(recipe), result.get("started_from")
        if before and not named:
            raise InputError(f"{run_dir}: {ALONE_AFTER_A_RUN.format(before['name'])}")
        config["base_model_name_or_path"] = named or result.get("base_model") or last_name(base)
        content = json.dumps(config, indent=2, sort_keys=True).encode()
    return content


def _card_for(path: Path, repo_id: str, recipe: dict[str, Any]) -> str:
    """The card, whose snippets load from this repository, not from the run's folder or another repository."""
    text = path.read_text(encoding="utf-8")
    planned = recipe.get("recipe", {}).get("hub", {}).get("repo_id")
    for name in (f"{PLACEHOLDER}/model", PLACEHOLDER, *([planned] if planned else [])):
        text = text.replace(f'"{name}"', f'"{repo_id}"')
    return text


def _refuse_name(path: str) -> None:
    for part in path.lower().split("/"):
        for patterns, what in ((PICKLES, "a pickle"), (LEFTOVERS, "a checkpoint or log"), (CODE, "code")):
            if any(fnmatch.fnmatch(part, pattern) for pattern in patterns):
                raise InputError(f"{path}: {what} is never pushed; remove it from the run's folder")


def _outgoing(path: str, content: Path | bytes, token: str) -> Outgoing:
    """Digests of a file, after a look for pickles and tokens in it."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    secret, tail = token.encode(), b""
    for chunk in _chunks(content):
        sha256.update(chunk)
        blob.update(chunk)
        window = tail + chunk
        if (secret and secret in window) or TOKEN_SHAPE.search(window):
            raise InputError(
                f"{path}: there is an access token in it; remove the token, then revoke it, and push again"
            )
        # A token may lie across two chunks.
        tail = window[-max(len(secret), 256) :]
    if isinstance(content, Path) and _is_pickle(content):
        raise InputError(f"{path}: a pickle, whatever its name; it is never pushed")
    return Outgoing(content, sha256.hexdigest(), blob.hexdigest())


def _chunks(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _is_pickle(path: Path) -> bool:
    """Whether the content is one, as pickle or torch.save writes it."""
    with path.open("rb") as file:
        start = file.read(16)
    if path.suffix == ".safetensors":
        # These start with a length, which may look like anything; then comes JSON.
        return start[8:9] != b"{"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    if start[:4] != b"PK\x03\x04":
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".pkl") for name in archive.namelist())
