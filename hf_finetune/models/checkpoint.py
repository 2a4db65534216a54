"""Find a checkpoint in a folder, a run or on the Hub, and check its files before any library opens them."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from huggingface_hub import constants, errors, snapshot_download
from huggingface_hub.utils import httpx

from hf_finetune.errors import InputError
from hf_finetune.models import checkpoint_files as files
from hf_finetune.models.checkpoint_files import BIN, SAFETENSORS, Stored
from hf_finetune.models.config import CHECKPOINT_LIMITS, CheckpointLimits
from hf_finetune.models.efficientnet_lite import efficientnet_lite0
from hf_finetune.utils.artifacts import ADAPTER_FILE, GRAPH_FILE, HEAD_FILE, PIPELINE_FILE, artifacts_in
from hf_finetune.utils.embedded import IMAGE_CHECKPOINT, IMAGE_REMEDY, REMEDY, TEXT_CHECKPOINT, installed_checkpoint
from hf_finetune.utils.files import ScratchFolder
from hf_finetune.utils.hub_requests import cause_of, download, download_failure, first_line, is_unreachable
from hf_finetune.utils.manifest import LOADED_FROM_ROOT, Manifest, Part

# Files to fetch, from the root only: no optimizer states, training arguments or other pickles, no chat templates.
PLAIN_FILES = ["*.json", "*.txt", "*.model", "*.spm", "*.codes"]
SAFETENSORS_FILES = [SAFETENSORS, "model-*.safetensors"]
BIN_FILES = [BIN, "pytorch_model-*.bin"]
# Files beside the weights that a loaded model, its tokenizer or its processor may depend on, fetched or not.
SETTINGS_FILES = (*PLAIN_FILES, "vocab.*", "*.py")

SENTENCE_POOLING = "1_Pooling/config.json"
CONFIG_FILES = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
REMEDY_ON_HUB = (
    "delete the cached copy {} and try again; if this stays, the repository was changed after the push: push again"
)


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint on this machine whose files are not checked yet."""

    name: str
    """Hub id or folder as the user wrote it."""
    folder: Path
    """Local folder, of a model or of a run."""
    commit: str | None
    """Commit on the Hub; None if it is a folder."""


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint on this machine that `inspect_checkpoint` has checked."""

    name: str
    """Hub id or folder as the user wrote it; for a run's folder its model/ or encoder/."""
    folder: Path
    """Local folder with its files."""
    commit: str | None
    """Commit on the Hub; None if it is a folder."""
    config: dict[str, Any]
    """Contents of config.json."""
    weights: tuple[Path, ...]
    """Files with the weights: safetensors, or `.bin` if there are none; empty if they are not needed."""
    notes: tuple[str, ...]
    """Notes for the user."""
    trust_remote_code: bool = False
    """Whether its Python code may run."""
    stored: Stored | None = None
    """What the files of weights hold; None: there are none, or they are not needed."""
    limits: CheckpointLimits = CHECKPOINT_LIMITS
    """Limits on what its files say."""
    scratch: ScratchFolder | None = None
    """Holds `folder` if it is a temporary one."""

    @property
    def plain_name(self) -> str:
        """What plain libraries load: the Hub id, or the folder of the copy that an installed package has of it."""
        return str(self.folder) if self.commit is None else self.name


def settings_files(folder: Path) -> dict[str, Path]:
    """Return the files of a checkpoint beside its weights by name: config, tokenizer, processor, and code if any.

    Every file of such a suffix is listed, as families name theirs differently.
    """
    found = {path.name: path for pattern in SETTINGS_FILES for path in folder.glob(pattern) if path.is_file()}
    return dict(sorted(found.items()))


def inspect_checkpoint(
    checkpoint: str | Path | FoundCheckpoint,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    need_weights: bool = True,
    limits: CheckpointLimits = CHECKPOINT_LIMITS,
) -> LocalCheckpoint:
    """Find a checkpoint, fetch the files that are needed, and check that they are safe and complete.

    Pickled weights are read once with `torch.load(weights_only=True)`, whatever transformers does later.

    Args:
        checkpoint: folder of a model, or of a run, whose model/ or encoder/ is used; or a Hub id. Only root files of a
            Hub repository are fetched: json, txt, sentencepiece models and safetensors; `.bin` only if there are no
            safetensors; `.py` only with `trust_remote_code`. Or what `find_checkpoint` returned with the same options.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: allow Python code and kernels.
        need_weights: False: only config, tokenizer or processor are needed; weights are neither fetched nor checked.
        limits: limits on what the files say. Raised to those of `trained_limits` for a run on this machine.

    Raises:
        InputError: the checkpoint does not exist or cannot be accessed; config.json is missing, broken or of an unknown
            `model_type`; it has code, Hub kernels, redirections, quantized weights or only a PEFT adapter; a weight
            index points outside the folder; or a weight file is missing or damaged, or has too many tensors.
        GateError: see `check_files`.
    """
    if not isinstance(checkpoint, FoundCheckpoint):
        checkpoint = find_checkpoint(
            str(checkpoint), revision=revision, trust_remote_code=trust_remote_code, need_weights=need_weights
        )
    name, folder = _locate(checkpoint, need_weights)
    limits = limits.raised_to(trained_limits(folder.parent) if checkpoint.commit is None else CHECKPOINT_LIMITS)
    configs = {file: files.read_json(name, folder / file) for file in CONFIG_FILES if (folder / file).is_file()}
    for file, content in configs.items():
        files.refuse_redirections(name, file, content)
        if not trust_remote_code:
            files.refuse_code(name, file, content)
    config = configs["config.json"]
    files.check_classes(name, config, limits.max_classes)
    if not (trust_remote_code and config.get("auto_map")):
        files.check_model_type(name, config)
    weights = files.weight_files(name, folder) if need_weights else ()
    headers = [files.check_weights(name, path, limits.max_tensors) for path in weights]
    stored = None
    if headers and all(headers):
        stored = Stored(sum(h.tensors for h in headers if h), sum(h.numbers for h in headers if h))
    notes: tuple[str, ...] = ()
    if weights and weights[0].suffix == ".bin":
        notes = (f"{name}: no safetensors, {weights[0].name} is read with torch.load(weights_only=True)",)
    return LocalCheckpoint(name, folder, checkpoint.commit, config, weights, notes, trust_remote_code, stored, limits)


def trained_limits(run: Path) -> CheckpointLimits:
    """Return the limits that a run was trained with, by its recipe.json; the default ones where it has none."""
    try:
        model = json.loads((run / "recipe.json").read_bytes())["recipe"]["model"]
        names = [field.name for field in fields(CheckpointLimits)]
        return CheckpointLimits(**{name: model[name] for name in names if name in model})
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return CHECKPOINT_LIMITS


def _locate(found: FoundCheckpoint, need_weights: bool) -> tuple[str, Path]:
    """Return name and folder of a complete model."""
    name, folder, commit = found.name, found.folder, found.commit
    check_files(name, folder, commit, need_weights)
    artifacts = artifacts_in(folder)
    in_run = artifacts.get("model") or artifacts.get("encoder")
    if not (folder / "config.json").is_file() and in_run is not None:
        folder = in_run
        name = str(folder) if commit is None else name
    if "classical" in artifacts:
        raise InputError(
            f"{name}: a pipeline of scikit-learn, the result of method classical; expected a network: name a checkpoint"
        )
    if "onnx" in artifacts:
        raise InputError(f"{name}: a graph of ONNX, the result of compress; expected a network: name the run before it")
    if list(artifacts) == ["adapter"]:
        remedy = "start from the checkpoint that it adapts, or from a run with model/ or encoder/"
        raise InputError(f"{name}: a run whose adapter could not be merged; expected a complete model: {remedy}")
    if (folder / "adapter_config.json").is_file():
        raise InputError(f"{name}: a PEFT adapter, expected a complete model; merge it into its base model first")
    if not (folder / "config.json").is_file():
        raise InputError(f"{name}: no config.json in it; expected a folder written by save_pretrained, or a Hub id")
    return name, folder


def find_checkpoint(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False, need_weights: bool = True
) -> FoundCheckpoint:
    """Find a checkpoint, and fetch the files that are needed; see `inspect_checkpoint`.

    Raises:
        InputError: it does not exist or cannot be accessed.
    """
    if not name:
        raise InputError("model.checkpoint: no such folder ''; expected a checkpoint folder or a Hub id")
    path = Path(name).expanduser()
    if path.is_dir():
        return FoundCheckpoint(name, path, None)
    if path.is_file():
        raise InputError(f"{name}: a file; expected a folder with config.json and {SAFETENSORS}, or a Hub id")
    if revision is None and (installed := installed_checkpoint(name)) is not None:
        return FoundCheckpoint(name, installed, None)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"{name}: no such folder; expected a checkpoint folder or a Hub id")
    patterns = [*PLAIN_FILES, *(SAFETENSORS_FILES if need_weights else ()), *(["*.py"] if trust_remote_code else ())]
    folder = _download(name, revision, patterns)
    if need_weights and not any((folder / file).exists() for file in (SAFETENSORS, f"{SAFETENSORS}.index.json")):
        folder = _download(name, revision, patterns + BIN_FILES)
    if not (folder / "config.json").is_file():
        # The repository of a run without model/.
        parts = [f"{part}/{pattern}" for part in ("encoder", "adapter", "classical", "onnx") for pattern in patterns]
        parts += [HEAD_FILE, f"adapter/{ADAPTER_FILE}", f"classical/{PIPELINE_FILE}", f"onnx/{GRAPH_FILE}"]
        folder = _download(name, revision, parts, too_deep="*/*/*")
    return FoundCheckpoint(name, folder, folder.name)


def is_sentence_encoder(local: LocalCheckpoint) -> bool:
    """Return whether sentence-transformers has written a checkpoint."""
    return (local.folder / "modules.json").is_file()


def is_mean_of_sentences(local: LocalCheckpoint) -> bool:
    """Return whether a checkpoint is a sentence encoder whose embedding is the mean of its tokens.

    sentence-transformers writes that into a sub-folder, which is fetched only here.
    """
    if not is_sentence_encoder(local):
        return False
    folder = local.folder
    if local.commit is not None:
        try:
            folder = _download(local.name, local.commit, [SENTENCE_POOLING], too_deep="*/*/*")
        except InputError:  # offline; the choice is then by the rows alone
            return False
    try:
        return bool(json.loads((folder / SENTENCE_POOLING).read_text())["pooling_mode_mean_tokens"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def unmerged_adapter(found: FoundCheckpoint, limits: CheckpointLimits = CHECKPOINT_LIMITS) -> Path | None:
    """Return the adapter's folder in a run whose adapter cannot be merged, None for any other checkpoint.

    Args:
        limits: limits on what its files say.

    Raises:
        InputError: the adapter's weights are missing or damaged.
        GateError: see `check_files`.
    """
    artifacts, checkpoint = artifacts_in(found.folder), found.name
    if list(artifacts) != ["adapter"]:
        return None
    check_files(checkpoint, found.folder, found.commit)
    folder = artifacts["adapter"]
    if not (folder / ADAPTER_FILE).is_file():
        raise InputError(f"{checkpoint}: no {ADAPTER_FILE} in its adapter/; fetch it again")
    if not (folder / "config.json").is_file():
        why = "its adapter/ has no class names (config.json)"
        raise InputError(f"{checkpoint}: {why}; keep model/ next to it")
    files.check_weights(checkpoint, folder / ADAPTER_FILE, limits.max_tensors)
    return folder


def check_files(name: str, folder: Path, commit: str | None, need_weights: bool = True) -> None:
    """Compare the files of a run's folder or repository with the manifest of the run.

    Raises:
        InputError: result.json is damaged.
        GateError: a file is missing, was added, or differs.
    """
    manifest = Manifest.find(folder)
    if manifest is None:
        return
    weights = [*SAFETENSORS_FILES, ADAPTER_FILE, HEAD_FILE, PIPELINE_FILE, GRAPH_FILE] if need_weights else []
    if commit is None:
        manifest.check(["*"] if need_weights else PLAIN_FILES)
        return
    # Other artifacts of the repository, and other files, were not fetched.
    used = replace(manifest, part=next(iter(artifacts_in(folder)), None))
    used.check([*PLAIN_FILES, *weights], name=name, remedy=REMEDY_ON_HUB.format(folder))


def fetch_run(name: str, *, revision: str | None = None) -> tuple[Path, str | None]:
    """Return a run's folder; or a copy of the repository of a run, with all artifacts, and its commit.

    Raises:
        InputError: there is no such folder or repository.
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser(), None
    find_checkpoint(name, revision=revision, need_weights=False)
    patterns = ["*.json", *LOADED_FROM_ROOT, *(f"{part}/*" for part in get_args(Part))]
    folder = _download(name, revision, patterns, too_deep="*/*/*")
    return folder, folder.name


def _download(repo: str, revision: str | None, patterns: list[str], *, too_deep: str = "*/*") -> Path:
    def fetch() -> str:
        return snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=[too_deep])

    try:
        return Path(download(fetch))
    except (errors.HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        raise InputError(f"{repo}: {_hub_refusal(repo, revision, error)}") from error


def _hub_refusal(repo: str, revision: str | None, error: Exception) -> str:
    """Return why a download failed, and the remedy."""
    match error:
        case errors.GatedRepoError():
            remedy = f"accept its terms at {constants.ENDPOINT}/{repo} and log in with `hf auth login`"
            return f"access to this checkpoint is gated; {remedy}"
        case errors.RepositoryNotFoundError():
            remedy = "check the name, or log in with `hf auth login` if it is private"
            return f"neither a folder here nor a model on the Hub; {remedy}"
        case errors.RevisionNotFoundError():
            return f"no branch, tag or commit {revision!r} on the Hub; check model.revision"
        case errors.LocalEntryNotFoundError() if is_unreachable(error):
            cause = "" if error.__cause__ is None else f" ({first_line(cause_of(error))})"
            why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"the Hub cannot be reached{cause}"
            return f"no such folder, not in the local cache, and {why}; go online or give a folder{_embedded(repo)}"
        case errors.HFValidationError():
            return "neither a folder here nor a Hub id (owner/name)"
    return download_failure(error)


def _embedded(repo: str) -> str:
    """Return how to do without the download of a default checkpoint.

    Another one is not used by itself: the network would decide what a command trains.
    """
    if repo == TEXT_CHECKPOINT:
        return f"; {REMEDY} brings it"
    if repo != IMAGE_CHECKPOINT:
        return ""
    try:
        return f", such as the installed EfficientNet-Lite0: --model {efficientnet_lite0()}"
    except InputError:
        return f"; {IMAGE_REMEDY} brings a smaller one, which `quickstart --image` uses"
