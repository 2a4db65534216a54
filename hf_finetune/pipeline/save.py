"""Save the trained network: model/ and adapter/, or encoder/ and head.safetensors, each complete or not at all."""

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.data import provenance
from hf_finetune.data.dropped_rows import write_dropped
from hf_finetune.data.inputs import Inputs, TextInputs
from hf_finetune.data.long.config import MARK
from hf_finetune.models.checkpoint_config import Task as HubTask
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.heads.head_file import save_head
from hf_finetune.models.heads.stock import fold
from hf_finetune.models.modules import encoder, without_adapter
from hf_finetune.models.peft import adapters
from hf_finetune.models.peft.compatibility import subtracts_from_base
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.parity import Artifact
from hf_finetune.pipeline.run_folder import replacing
from hf_finetune.pipeline.run_setup import RunSetup
from hf_finetune.pipeline.start_weights import save_start_weights
from hf_finetune.pipeline.train import TrainedRun
from hf_finetune.tasks.base import Task
from hf_finetune.utils.artifacts import HEAD_FILE, artifacts_in
from hf_finetune.utils.files import make_folder


def save_start(setup: RunSetup) -> None:
    """Write recipe.json, the first file of a run, the list of dropped rows, and the weights that training starts from.

    The initial adapter is written, too, if the trained one is saved relative to it: such an adapter (PiSSA, OLoRA)
    starts with a part of the pretrained weights.
    """
    checkpoints, network, state = setup.folder / "checkpoints", setup.network, PartialState()
    if state.is_main_process:
        setup.record.write(setup.folder)
        make_folder(checkpoints)
        save_start_weights(setup)
        if dropped := setup.run.data.splits.dropped:
            write_dropped(setup.folder / "dropped.csv", {str(role): rows for role, rows in dropped.items()})
        start = checkpoints / adapters.START
        if isinstance(network, PeftModel) and subtracts_from_base(network.active_peft_config) and not start.exists():
            with replacing(start) as path:
                adapters.save_adapter(network, path)
    state.wait_for_everyone()


def save(trained: TrainedRun) -> list[Artifact]:
    """Write the artifacts of a run, and hashes of its training rows.

    Returns:
        The artifacts to verify.
    """
    run, folder = trained.run, trained.folder
    artifacts = save_artifacts(trained.network, run, folder, trained.task)
    pretraining = [] if run.data.pretraining_rows is None else [run.data.pretraining_rows.rows]
    provenance.save_keys(folder, [run.data.splits.train, *pretraining], run.recipe.pretrained_checkpoint)
    return artifacts


def save_artifacts(network: nn.Module, run: Run, folder: Path, task: Task) -> list[Artifact]:
    """Write model/, with the adapter merged, and adapter/.

    A custom head is folded into a stock one where possible; otherwise encoder/ and head.safetensors are written instead
    of model/. There is no adapter/ with a custom head, which fits no stock class, or with a changed base (surgery,
    pretraining, an earlier run, another pooling), which is nowhere on the Hub.
    """
    artifacts: list[Artifact] = []
    if isinstance(network, PeftModel):
        has_custom_head = isinstance(without_adapter(network), CustomHeadClassifier)
        if run.origin.base_changed is None and not has_custom_head:
            artifacts.append(_save_adapter(network, run, folder, task))
        if not adapters.mergeable(network):
            return artifacts
        network = adapters.merge(network)
    assert isinstance(network, PreTrainedModel), "a model of transformers"
    _mark_data(network, run, task)
    if isinstance(network, CustomHeadClassifier):
        if not network.folds:
            return [save_network(network, run.data.inputs, folder, run.hub_task)]
        network = fold(encoder(network), network.spec, network.head)
    return [save_network(network, run.data.inputs, folder, run.hub_task), *artifacts]


def save_network(
    network: PreTrainedModel, inputs: Inputs, folder: Path, task: HubTask, *, half_embeddings: bool = False
) -> Artifact:
    """Write model/; or encoder/ and head.safetensors of a head that no stock class has.

    Args:
        half_embeddings: store those of tokens in float16 if that changes none of their values. transformers loads them
            in the format of the config.
    """
    if isinstance(network, CustomHeadClassifier):
        with replacing(folder / "encoder") as path:
            encoder(network).save_pretrained(path, state_dict=_state(encoder(network), half_embeddings))
            inputs.save(path)
        save_head(network, folder / HEAD_FILE, task)
        return Artifact("reload", folder / "encoder", head=folder / HEAD_FILE)
    with replacing(folder / "model") as path:
        network.save_pretrained(path, state_dict=_state(network, half_embeddings))
        inputs.save(path)
    return Artifact("reload", folder / "model")


def _state(network: PreTrainedModel, half_embeddings: bool) -> dict[str, torch.Tensor] | None:
    """Return the weights with the embeddings of tokens in float16. None: as they are."""
    table = network.get_input_embeddings() if half_embeddings else None
    if not isinstance(table, nn.Embedding) or not torch.equal(table.weight, table.weight.half().to(table.weight.dtype)):
        return None
    shared = table.weight.data_ptr()
    return {name: value.half() if value.data_ptr() == shared else value for name, value in network.state_dict().items()}


def _save_adapter(network: PeftModel, run: Run, folder: Path, task: Task) -> Artifact:
    base = without_adapter(network)
    with replacing(folder / "adapter") as path:
        adapters.save_adapter(network, path, start=folder / "checkpoints" / adapters.START)
        run.data.inputs.save(path)
        if not adapters.mergeable(network):
            # No other file holds the class names.
            _mark_data(base, run, task)
            base.config.save_pretrained(path)
    checkpoint = run.context.checkpoint.plain_name
    return Artifact("adapter", folder / "adapter", base=checkpoint, revision=run.recipe.model.revision)


def _mark_data(network: PreTrainedModel, run: Run, task: Task) -> None:
    """Store with a model what `predict` and `evaluate` know of its data: pairs of texts, numbers of classes, thresholds
    of tags and their separator, the alphabet of sequences, and what is read of long texts."""
    # An earlier run's marks do not hold for this one.
    for name in (
        *("trained_on_pairs", "label_values", "thresholds", "label_separator", "ordinal"),
        *("constrained_decoding", "sequence", MARK),
    ):
        vars(network.config).pop(name, None)
    for name, value in task.marks().items():
        setattr(network.config, name, value)
    if run.data.splits.label_separator is not None:
        network.config.label_separator = run.data.splits.label_separator
    if run.data.splits.label_values:
        network.config.label_values = run.data.splits.label_values
    inputs = run.data.inputs
    if isinstance(inputs, TextInputs) and (mark := inputs.long.mark()) is not None:
        setattr(network.config, MARK, mark)
    if "text_pair" in run.data.splits.columns:
        network.config.trained_on_pairs = True
    if run.recipe.sequence is not None:
        network.config.sequence = run.recipe.sequence


def standalone(network: nn.Module, folder: Path) -> dict[str, Any]:
    """Return for result.json whether plain transformers loads the saved model, or why not."""
    saved, base = artifacts_in(folder), without_adapter(network)
    section: dict[str, Any] = {"standalone": "model" in saved, "artefacts": list(saved)}
    if "model" not in saved and isinstance(base, CustomHeadClassifier):
        section["why_not_standalone"] = base.why_not_standalone
    if isinstance(network, PeftModel) and not adapters.mergeable(network):
        section["why_not_standalone"] = adapters.WHY_NOT_STANDALONE
    return section
