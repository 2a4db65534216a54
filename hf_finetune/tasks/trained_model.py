"""A trained classifier: the model and its tokenizer or image processor."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import datasets
from torch import nn
from transformers import DeiTForImageClassificationWithTeacher, PreTrainedModel
from transformers.utils import logging as transformers_logging

from hf_finetune.data.inputs import ImageInputs, Inputs, TextInputs
from hf_finetune.data.long.base import LongTexts
from hf_finetune.data.long.chunk import CHUNKS
from hf_finetune.data.long.config import marked
from hf_finetune.data.targets.multi_label import SEPARATORS, is_separator
from hf_finetune.data.word_inputs import WordInputs
from hf_finetune.errors import GateError, InputError
from hf_finetune.models.checkpoint import (
    FoundCheckpoint,
    LocalCheckpoint,
    check_files,
    find_checkpoint,
    inspect_checkpoint,
    settings_files,
    trained_limits,
    unmerged_adapter,
)
from hf_finetune.models.checkpoint_config import Task as HubTask
from hf_finetune.models.checkpoint_config import class_names, load_config
from hf_finetune.models.config import CHECKPOINT_LIMITS, CheckpointLimits
from hf_finetune.models.exported_network import open_exported
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.heads.head_file import load_custom_head
from hf_finetune.models.kernels.narrow_last_layer import narrow_to_first_token
from hf_finetune.models.loading import load_classifier
from hf_finetune.models.peft.adapters import load_adapter
from hf_finetune.models.processors import load_image_processor, load_tokenizer, positions_of
from hf_finetune.tasks.base import Task
from hf_finetune.tasks.choose import saved_task
from hf_finetune.training.first_row import check_first_row
from hf_finetune.training.precision import default_device
from hf_finetune.utils import hashing
from hf_finetune.utils.artifacts import EXPORT_FILE, GRAPH_FILE, HEAD_FILE, artifacts_in, exported_graph
from hf_finetune.utils.files import read_json
from hf_finetune.utils.messages import short
from hf_finetune.utils.sequences import SequenceKind

logger = logging.getLogger("hf_finetune")

UNKNOWN_LENGTH = 512
"""Maximum length where neither tokenizer nor config has one."""
MOST_STORED = 100_000
"""Largest maximum length of a tokenizer that is a limit."""
FEWEST_TOKENS = 4
"""Shortest maximum length: two texts of one token each, and special tokens would not fit into less."""
RESTORE = "restore its files"
HUB_TASKS: dict[str, HubTask] = {
    "ForSequenceClassification": "text-classification",
    "ForImageClassification": "image-classification",
    "ForTokenClassification": "token-classification",
}
"""The Hub's name of the task of each kind of stock class."""


@dataclass(frozen=True, kw_only=True)
class TrainedClassifier:
    """What `predict` and `evaluate` know of a trained classifier and its data, whatever computes its predictions."""

    pairs: bool = False
    """Whether it was trained on pairs of texts."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Files that it was loaded from, by name: all but the weights of its network, and those of its head if it has a
    file of its own."""
    name: str = "the classifier"
    """Folder or Hub id, for messages."""
    label_values: Mapping[str, str] = field(default_factory=dict)
    """Names of the labels that its data numbered."""
    columns: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    """Columns that its run was trained on, by canonical name; several of tags or targets. Empty: unknown."""
    limits: CheckpointLimits = CHECKPOINT_LIMITS
    """Limits within which its files were read."""
    label_separator: str | None = None
    """Character between the tags of a text."""
    sequence: SequenceKind | None = None
    """What its sequences are. None: texts of a language, or images."""


@dataclass(frozen=True)
class TrainedModel(TrainedClassifier):
    """A trained model with its tokenizer or image processor."""

    model: nn.Module
    inputs: Inputs
    task: Task

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its classes, tags or targets, in the order of its outputs."""
        return self.task.labels

    @property
    def kind(self) -> Literal["text", "image"]:
        """Kind of its rows."""
        return "text" if isinstance(self.inputs, TextInputs) else "image"


def quiet_libraries() -> None:
    """Turn off progress bars and messages of transformers and datasets: this package reports what matters."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()


def load_trained(
    checkpoint: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    limits: CheckpointLimits = CHECKPOINT_LIMITS,
    found: FoundCheckpoint | None = None,
) -> TrainedModel:
    """Load a run's folder, its model/ folder, or a Hub repository.

    Args:
        found: what `find_checkpoint` has found by these options. None: it is looked for.
        limits: limits on what its files say. A run on this machine has those that it was trained with, too.

    Raises:
        InputError: there is no such checkpoint, or it has no trained classification head.
        GateError: it is the result of a run, and its files are not those that the run wrote.
    """
    quiet_libraries()
    if found is None:
        found = find_checkpoint(checkpoint, revision=revision, trust_remote_code=trust_remote_code)
    if found.commit is None:
        limits = _raised(limits, found)
    if (adapter := unmerged_adapter(found, limits)) is not None:
        return _load_with_adapter(checkpoint, adapter, trust_remote_code, limits)
    if (onnx := artifacts_in(found.folder).get("onnx")) is not None:
        check_files(checkpoint, found.folder, found.commit)
        return _load_exported(checkpoint, replace(found, folder=onnx), limits)
    if exported_graph(found.folder) is not None:
        return _load_exported(checkpoint, found, limits)
    local = inspect_checkpoint(found, trust_remote_code=trust_remote_code, limits=limits)
    model: PreTrainedModel
    files = settings_files(local.folder)
    if artifacts_in(local.folder.parent).get("encoder") == local.folder:
        load_config(local)  # refuses what would take minutes to build
        model, task, labels = load_custom_head(local.folder.parent)
        files[HEAD_FILE] = local.folder.parent / HEAD_FILE
    else:
        model, task, labels = _load_model(checkpoint, local)
    max_length = None if task == "image-classification" else _max_length(model, local)
    long = marked(local.config, str(local.folder / "config.json"))
    if (long.shares == CHUNKS) != (isinstance(model, CustomHeadClassifier) and model.chunk_pooling is not None):
        raise InputError(f"{checkpoint}: its config.json and its head do not agree on chunks of long texts; {RESTORE}")
    inputs = _inputs(local, max_length, long, task)
    narrow_to_first_token(model)
    return _classifier(checkpoint, model, inputs, labels, local, local.config, files)


def _load_exported(checkpoint: str, found: FoundCheckpoint, limits: CheckpointLimits) -> TrainedModel:
    """Load a folder that `compression.export` wrote.

    Raises:
        InputError: it is damaged, or what computes it is missing.
        GateError: its graph is not the one that was written.
    """
    local = inspect_checkpoint(found, need_weights=False, limits=limits)
    graph = exported_graph(found.folder)
    if graph is None:
        raise InputError(f"{checkpoint}: no {GRAPH_FILE} beside its {EXPORT_FILE}; {RESTORE}")
    runtime, paths = graph
    saved = _read_json(found.folder / EXPORT_FILE)
    labels, task = saved.get("labels"), cast(HubTask, saved.get("hub_task"))
    if not isinstance(labels, list) or task not in get_args(HubTask):
        raise InputError(f"{found.folder / EXPORT_FILE}: it lacks its labels or its hub_task; export it again")
    if hashing.of_files(*paths) != saved.get("sha256"):
        raise GateError(
            f"{paths[0]}: not the file that was written (another SHA-256 than in {EXPORT_FILE}); export it again"
        )
    model = open_exported(runtime, paths[0], bfloat16=saved.get("weights") == "bfloat16")
    max_length = None if task == "image-classification" else _max_length(model, local)
    inputs = _inputs(local, max_length, marked(local.config, str(found.folder / "config.json")), task)
    names = tuple(map(str, labels))
    return _classifier(checkpoint, model, inputs, names, local, local.config, settings_files(local.folder))


def _raised(limits: CheckpointLimits, run: FoundCheckpoint) -> CheckpointLimits:
    """Return the limits, and those that a run on this machine was trained with where they are higher."""
    raised = limits.raised_to(trained_limits(run.folder))
    higher = [f"{name} {most:,}" for name, most in vars(raised).items() if most != getattr(limits, name)]
    if higher:
        logger.info("%s: limits of its recipe.json: %s", run.name, ", ".join(higher))
    return raised


def _load_model(checkpoint: str, local: LocalCheckpoint) -> tuple[PreTrainedModel, HubTask, tuple[str, ...]]:
    config = local.config
    architectures = config.get("architectures") or [""]
    architecture = architectures[0] if isinstance(architectures, list) and isinstance(architectures[0], str) else ""
    distilled = architecture == DeiTForImageClassificationWithTeacher.__name__
    if not distilled and not architecture.endswith(tuple(HUB_TASKS)):
        raise InputError(
            f"{checkpoint}: {architecture or 'this'} is not a trained classifier; train one with `hf-finetune train`"
        )
    labels = tuple(class_names(checkpoint, config))
    problem_type = saved_task(checkpoint, labels, config).problem_type
    task: HubTask = next((task for end, task in HUB_TASKS.items() if end in architecture), "text-classification")
    for note in local.notes:
        logger.info(note)
    loaded = load_classifier(local, task=task, labels=labels, problem_type=problem_type, distilled=distilled)
    if loaded.fresh:
        raise InputError(f"{checkpoint}: its weights lack {', '.join(loaded.fresh)}; this classifier was never trained")
    return loaded.model, task, labels


def _load_with_adapter(
    checkpoint: str, folder: Path, trust_remote_code: bool, limits: CheckpointLimits
) -> TrainedModel:
    """Load a run that is only an adapter, on the checkpoint that it names."""
    config, adapter = _read_json(folder / "config.json"), _read_json(folder / "adapter_config.json")
    base, revision = adapter.get("base_model_name_or_path"), adapter.get("revision")
    if not base or not isinstance(base, str) or not isinstance(revision, str | None):
        raise InputError(f"{checkpoint}: its adapter_config.json does not name the checkpoint that it was trained on")
    if not config.get("id2label"):
        raise InputError(f"{checkpoint}: no class names (id2label) in the config.json of its adapter/; {RESTORE}")
    local = inspect_checkpoint(base, revision=revision, trust_remote_code=trust_remote_code, limits=limits)
    is_text = (folder / "tokenizer_config.json").is_file()
    task: HubTask = "text-classification" if is_text else "image-classification"
    max_length = (_stored_length(folder) or UNKNOWN_LENGTH) if is_text else None
    labels = tuple(class_names(checkpoint, config))
    problem_type = saved_task(checkpoint, labels, config).problem_type
    model = load_classifier(local, task=task, labels=labels, problem_type=problem_type).model
    narrow_to_first_token(model)
    files = settings_files(local.folder) | {f"adapter/{n}": path for n, path in settings_files(folder).items()}
    adapted = load_adapter(model, folder)
    inputs = _inputs(local, max_length, marked(config, str(folder / "config.json")))
    return _classifier(checkpoint, adapted, inputs, labels, local, config, files)


def _inputs(
    local: LocalCheckpoint, max_length: int | None, long: LongTexts, task: HubTask = "text-classification"
) -> Inputs:
    """Tokenizer with a maximum length, and what is read of longer texts; the image processor where that is None."""
    if max_length is None:
        return ImageInputs(load_image_processor(local))
    kind = WordInputs if task == "token-classification" else TextInputs
    tokenizer = load_tokenizer(local, max_length=max_length, sample=[])
    long.check(tokenizer, max_length, local.name)
    return kind(tokenizer, max_length, long)


def _classifier(
    name: str,
    model: nn.Module,
    inputs: Inputs,
    labels: tuple[str, ...],
    local: LocalCheckpoint,
    config: dict[str, Any],
    files: Mapping[str, Path],
) -> TrainedModel:
    model = model.to(default_device()).eval()
    check_first_row(name, model, inputs)
    return TrainedModel(
        model,
        inputs,
        saved_task(name, labels, config),
        files=files,
        name=name,
        columns=_columns(files),
        limits=local.limits,
        **saved_fields(name, config, "config.json"),
    )


def saved_fields(name: str, saved: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return the fields of a `TrainedClassifier` that are saved with a model.

    Args:
        name: of the model, for messages.
        saved: the content of its config.json or classical.json.
        file: which of them, for messages.

    Raises:
        InputError: the separator of tags is none.
    """
    separator, values, sequence = (saved.get(key) for key in ("label_separator", "label_values", "sequence"))
    if separator is not None and not (isinstance(separator, str) and is_separator(separator)):
        unexpected = f"its {file} has the label_separator {short(separator)}"
        raise InputError(f"{name}: {unexpected}, expected {SEPARATORS}; {RESTORE}")
    numbered = values.items() if isinstance(values, dict) else ()
    return {
        "pairs": bool(saved.get("trained_on_pairs")),
        "label_values": {str(value): label for value, label in numbered if isinstance(label, str)},
        "label_separator": separator,
        "sequence": next((kind for kind in get_args(SequenceKind) if kind == sequence), None),
    }


def run_folder(files: Mapping[str, Path]) -> Path:
    """Return the folder of the run that files of a model belong to, else that of the model."""
    own = [path for name, path in files.items() if name.startswith("adapter/")] or list(files.values())
    model = next((path.parent for path in own if path.name == "config.json"), own[0].parent)
    return next((f for f in (model, model.parent) if (f / "result.json").is_file()), model)


def _columns(files: Mapping[str, Path]) -> dict[str, str | tuple[str, ...]]:
    """Return the columns that a run was trained on; none for a model of others, or a damaged result.json."""
    try:
        columns = read_json(run_folder(files) / "result.json", RESTORE)["data"]["columns"]
    except (OSError, InputError, LookupError, TypeError):
        return {}
    if not isinstance(columns, dict):
        return {}
    several = {n: tuple(c) for n, c in columns.items() if isinstance(c, list) and all(isinstance(x, str) for x in c)}
    return {name: c for name, c in columns.items() if isinstance(c, str)} | several


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path, RESTORE)


def _stored_length(folder: Path) -> int | None:
    """Return `model_max_length` of a tokenizer's folder; None: it has no tokenizer, or no limit, stored as 1e30.

    Raises:
        InputError: it is no number of tokens.
    """
    path = folder / "tokenizer_config.json"
    stored = _read_json(path).get("model_max_length") if path.is_file() else None
    if stored is None:
        return None
    if isinstance(stored, bool) or not isinstance(stored, int | float) or stored < FEWEST_TOKENS:
        expected = f"expected {FEWEST_TOKENS} tokens or more"
        raise InputError(f"{path}: model_max_length: {expected}, got {short(stored)}; {RESTORE}")
    return int(stored) if stored <= MOST_STORED else None


def _max_length(model: nn.Module, local: LocalCheckpoint) -> int:
    """Maximum length stored with the tokenizer, unless the model reads fewer tokens."""
    stored = _stored_length(local.folder)
    positions = positions_of(model) or local.config.get("max_position_embeddings")
    if stored is not None and stored <= (positions or MOST_STORED):
        return stored
    length = positions or UNKNOWN_LENGTH
    why = "stores no limit" if stored is None else f"stores a limit of {stored}"
    logger.info("%s: its tokenizer %s; texts are cut off at %d tokens", local.name, why, length)
    return length
