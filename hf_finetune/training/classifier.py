"""A finished classifier: its model, and what turns rows into its inputs."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import datasets
from torch import nn
from transformers import DeiTForImageClassificationWithTeacher, PreTrainedModel
from transformers.utils import logging as transformers_logging

from hf_finetune.data.inputs import ImageInputs, Inputs, TextInputs
from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint_config import Task, class_names
from hf_finetune.models.heads.head_file import load_custom_head
from hf_finetune.models.kernels.narrow_last_layer import narrow_to_first_token
from hf_finetune.models.loading import load_classifier
from hf_finetune.models.peft.adapters import load_adapter
from hf_finetune.models.processors import load_image_processor, load_tokenizer, positions_of
from hf_finetune.models.safety import LocalCheckpoint, inspect_checkpoint, unmerged_adapter
from hf_finetune.training.precision import default_device
from hf_finetune.utils.artifacts import artifacts_in

logger = logging.getLogger("hf_finetune")

# Where neither its tokenizer nor its config says how many tokens a classifier reads; and a stored limit above is none.
UNKNOWN_LENGTH, MOST_STORED = 512, 100_000


@dataclass(frozen=True)
class Classifier:
    """A trained model with what turns rows into its inputs."""

    model: nn.Module
    inputs: Inputs
    labels: tuple[str, ...]
    pairs: bool = False
    """Whether it was trained on pairs of texts."""

    @property
    def kind(self) -> Literal["text", "image"]:
        """What it reads."""
        return self.inputs.kind


def quiet_libraries() -> None:
    """No bars and chatter of the libraries: what is to be said, this package says."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()


def load_trained(checkpoint: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Classifier:
    """Load a run's folder, its model/ folder, or a Hub repository.

    Raises:
        InputError: when there is no such checkpoint, or it has no trained classification head.
    """
    quiet_libraries()
    if (alone := unmerged_adapter(checkpoint, revision=revision)) is not None:
        return _with_adapter(checkpoint, alone, trust_remote_code)
    local = inspect_checkpoint(checkpoint, revision=revision, trust_remote_code=trust_remote_code)
    if artifacts_in(local.folder.parent).get("encoder") == local.folder:
        return _classifier(local, *load_custom_head(local.folder.parent))
    config = json.loads((local.folder / "config.json").read_text(encoding="utf-8"))
    architecture = next(iter(config.get("architectures") or []), "")
    distilled = architecture == DeiTForImageClassificationWithTeacher.__name__
    if not distilled and not architecture.endswith(("ForSequenceClassification", "ForImageClassification")):
        raise InputError(
            f"{checkpoint}: {architecture or 'this'} is not a trained classifier; train one with `hf-finetune train`"
        )
    if (problem := config.get("problem_type")) in ("multi_label_classification", "regression"):
        raise InputError(
            f"{checkpoint}: its config.json says problem_type {problem}, which is not supported yet; expected a "
            "classifier that gives each row one class"
        )
    labels = tuple(class_names(checkpoint, config))
    task: Task = "image-classification" if "ForImageClassification" in architecture else "text-classification"
    loaded = load_classifier(local, task=task, labels=labels, distilled=distilled)
    if loaded.fresh:
        raise InputError(f"{checkpoint}: its weights lack {', '.join(loaded.fresh)}; this classifier was never trained")
    return _classifier(local, loaded.model, task, labels)


def _with_adapter(checkpoint: str, folder: Path, trust_remote_code: bool) -> Classifier:
    """A run that is an adapter alone, on the checkpoint that it names."""
    config, adapter = (json.loads((folder / n).read_text("utf-8")) for n in ("config.json", "adapter_config.json"))
    base, revision = adapter.get("base_model_name_or_path"), adapter.get("revision")
    if not base:
        raise InputError(f"{checkpoint}: its adapter_config.json does not name the checkpoint that it was trained on")
    local = inspect_checkpoint(base, revision=revision, trust_remote_code=trust_remote_code)
    text = (folder / "tokenizer_config.json").is_file()
    task: Task = "text-classification" if text else "image-classification"
    labels = tuple(str(config["id2label"][i]) for i in sorted(config["id2label"], key=int))
    loaded = load_classifier(local, task=task, labels=labels)
    narrow_to_first_token(loaded.model)
    model = load_adapter(loaded.model, folder).to(default_device()).eval()
    inputs: Inputs
    if text:
        length = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))["model_max_length"]
        inputs = TextInputs(load_tokenizer(local, max_length=length, sample=[]), length)
    else:
        inputs = ImageInputs(load_image_processor(local))
    return Classifier(model, inputs, labels, bool(config.get("trained_on_pairs")))


def _classifier(local: LocalCheckpoint, model: PreTrainedModel, task: Task, labels: tuple[str, ...]) -> Classifier:
    """The model with its tokenizer or image processor."""
    inputs: Inputs
    if task == "text-classification":
        max_length = _max_length(model, local)
        inputs = TextInputs(load_tokenizer(local, max_length=max_length, sample=[]), max_length)
    else:
        inputs = ImageInputs(load_image_processor(local))
    # What its head does not read need not be computed.
    narrow_to_first_token(model)
    network: nn.Module = model
    pairs = bool(local.config.get("trained_on_pairs"))
    return Classifier(network.to(default_device()).eval(), inputs, labels, pairs)


def _max_length(model: PreTrainedModel, local: LocalCheckpoint) -> int:
    """Tokens at which a classifier's texts are cut off: as its tokenizer stores, and no more than it can read."""
    path = local.folder / "tokenizer_config.json"
    stored = json.loads(path.read_text(encoding="utf-8")).get("model_max_length") if path.is_file() else None
    made_for = positions_of(model) or local.config.get("max_position_embeddings")
    # A tokenizer that was saved without a limit says 1e30.
    if isinstance(stored, int) and stored <= (made_for or MOST_STORED):
        return stored
    length = made_for or UNKNOWN_LENGTH
    why = f"stores a limit of {stored}" if isinstance(stored, int) and stored <= MOST_STORED else "stores no limit"
    logger.info("%s: its tokenizer %s; texts are cut off at %d tokens", local.name, why, length)
    return length
