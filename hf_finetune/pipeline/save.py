"""Save the trained model: model/ and adapter/, or encoder/ and head.safetensors, each whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.data import provenance
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.heads.head_file import save_head
from hf_finetune.models.heads.stock import fold
from hf_finetune.models.modules import encoder, without_adapter
from hf_finetune.models.peft import adapters
from hf_finetune.pipeline.context import PreparedRun
from hf_finetune.pipeline.parity import Artifact
from hf_finetune.pipeline.run_folder import replacing
from hf_finetune.pipeline.train import TrainedRun
from hf_finetune.utils.artifacts import HEAD_FILE, artifacts_in


def save(trained: TrainedRun) -> list[Artifact]:
    """Write the artifacts of a run, and keys of the rows that it was trained on.

    Returns:
        What was written, to be verified.
    """
    run, folder = trained.run, trained.folder
    artifacts = save_artifacts(trained.network, run, folder)
    pretraining = [] if run.data.pretraining_rows is None else [run.data.pretraining_rows.rows]
    provenance.save_keys(folder, [run.data.splits.train, *pretraining], run.recipe.pretrained_checkpoint)
    return artifacts


def save_artifacts(network: nn.Module, run: PreparedRun, folder: Path) -> list[Artifact]:
    """Write model/ (merged when adapters were trained) and adapter/.

    A head that no stock class has is folded into one; where it cannot be, encoder/ and head.safetensors stand in the
    place of model/. With such a head there is no adapter/, whose head would fit no stock class. After surgery,
    pretraining, another run or a change of the stock pooling there is none either: it would need the checkpoint as
    these left it, which the Hub has nowhere.
    """
    artifacts: list[Artifact] = []
    if isinstance(network, PeftModel):
        pooled = isinstance(without_adapter(network), CustomHeadClassifier)
        if run.origin.base_changed is None and not pooled:
            artifacts.append(_save_adapter(network, run, folder))
        if not adapters.mergeable(network):
            return artifacts
        network = adapters.merge(network)
    assert isinstance(network, PreTrainedModel), "a model of transformers"
    _note_pairs(network, run)
    if isinstance(network, CustomHeadClassifier):
        body = encoder(network)
        if not network.folds:
            with replacing(folder / "encoder") as path:
                body.save_pretrained(path)
                run.data.inputs.save(path)
            save_head(network, folder / HEAD_FILE, run.recipe.task)
            return [Artifact("reload", folder / "encoder", head=folder / HEAD_FILE)]
        network = fold(body, network.spec, network.head)
    with replacing(folder / "model") as path:
        network.save_pretrained(path)
        run.data.inputs.save(path)
    return [Artifact("reload", folder / "model"), *artifacts]


def _save_adapter(network: PeftModel, run: PreparedRun, folder: Path) -> Artifact:
    base = without_adapter(network)
    with replacing(folder / "adapter") as path:
        adapters.save_adapter(network, path, start=folder / "checkpoints" / adapters.START)
        run.data.inputs.save(path)
        if not adapters.mergeable(network):
            # It tells the classes' names, which no other file would.
            _note_pairs(base, run)
            base.config.save_pretrained(path)
    return Artifact("adapter", folder / "adapter", base=base.name_or_path, revision=run.recipe.model.revision)


def _note_pairs(network: PreTrainedModel, run: PreparedRun) -> None:
    # `predict` and `evaluate` warn when they get single texts; what a run before this one was trained on is over.
    vars(network.config).pop("trained_on_pairs", None)
    if "text_pair" in run.data.splits.columns:
        network.config.trained_on_pairs = True


def standalone(network: nn.Module, folder: Path) -> dict[str, Any]:
    """What result.json says of the saved artifacts: whether plain transformers loads the whole model, else why not."""
    saved, whole = artifacts_in(folder), without_adapter(network)
    section: dict[str, Any] = {"standalone": "model" in saved, "artefacts": list(saved)}
    if "model" not in saved and isinstance(whole, CustomHeadClassifier):
        section["why_not_standalone"] = whole.why_not_standalone
    if isinstance(network, PeftModel) and not adapters.mergeable(network):
        section["why_not_standalone"] = adapters.WHY_NOT_STANDALONE
    return section
