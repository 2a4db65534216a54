"""Everything a run needs before its first step: data, tokenizer or processor, model, all of it checked."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from peft import PeftModel
from torch import nn

from hf_finetune.apply import quiet_libraries
from hf_finetune.data.batching import StepBatches
from hf_finetune.data.inputs import ImageInputs, Inputs, TextInputs
from hf_finetune.data.load import Splits, load
from hf_finetune.models import adapters, freeze
from hf_finetune.models.load import load_classifier, load_image_processor, load_tokenizer
from hf_finetune.models.safety import inspect_checkpoint
from hf_finetune.recipe import Recipe, TextData, check
from hf_finetune.training import precision

# Weights that this package's quickstart brings, by SHA-256: a local copy of them is named as what it is.
KNOWN_WEIGHTS = {
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db": "sentence-transformers/all-MiniLM-L6-v2"
}


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs before its first step."""

    recipe: Recipe
    splits: Splits
    inputs: Inputs
    model: nn.Module
    fresh: tuple[str, ...]
    """Modules that the checkpoint did not have."""
    device: torch.device
    mixed_precision: str
    base_model: str | None
    """The checkpoint's Hub id, if it is known."""
    weights: str
    """The checkpoint's commit on the Hub, or the SHA-256 of its weights."""
    notes: tuple[str, ...]
    processes: int

    @property
    def autocast(self) -> torch.dtype | None:
        """Dtype of the matrix products while training and choosing."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.mixed_precision)

    @property
    def micro_batch(self) -> tuple[int, int, int]:
        """Rows of a forward pass, forward passes per step and process, rows of a step."""
        train, wanted = self.recipe.train, self.recipe.batching.rows_per_step
        rows, accumulation = train.per_device_train_batch_size, train.gradient_accumulation_steps
        if wanted is None:
            return rows, accumulation, rows * accumulation * self.processes
        rows = min(rows, -(-wanted // self.processes))
        return rows, -(-wanted // (rows * self.processes)), wanted


def prepare(recipe: Recipe) -> Prepared:
    """Load and check everything that can be wrong, before anything is written.

    Raises:
        InputError: see `recipe.check`, `data.load.load` and `models.load`.
    """
    check(recipe)
    quiet_libraries()
    device = precision.default_device()
    state = PartialState(cpu=device.type == "cpu")
    mixed_precision = precision.resolve_mixed_precision(recipe.precision.mixed_precision, device)
    data, model = recipe.data, recipe.model
    checkpoint = inspect_checkpoint(
        model.checkpoint, revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    splits = load_splits(recipe)
    # By name, not by its place in the cache: what is refused is then named as the user did.
    which = {"revision": checkpoint.commit, "trust_remote_code": model.trust_remote_code}
    inputs: Inputs
    if isinstance(data, TextData):
        inputs = TextInputs(
            load_tokenizer(checkpoint.name, max_length=data.max_length, sample=splits.train["text"][:200], **which),
            data.max_length,
        )
    else:
        inputs = ImageInputs(load_image_processor(checkpoint.name, **which))
    loaded = load_classifier(
        checkpoint.name,
        task=recipe.task,
        labels=splits.labels,
        dropout=model.dropout,
        attn_implementation=model.attn_implementation,
        seed=recipe.train.seed,
        **which,
    )
    # So that an adapter names its base as the user does, not the place in the cache it was read from.
    loaded.model.name_or_path = loaded.model.config.name_or_path = checkpoint.name
    freeze.freeze_batch_norm(loaded.model)
    if recipe.trained == "head":
        freeze.freeze_body(loaded.model, loaded.fresh)
    freeze.freeze_lower(loaded.model, model.frozen_layers)
    if recipe.trained not in ("full", "head"):
        # On a copy: the head is fitted before the adapter goes on, but one that does not fit is refused now.
        with_adapter(copy.deepcopy(loaded.model), recipe, loaded.fresh)
    weights = checkpoint.commit or _sha256(checkpoint.weights)
    prepared = Prepared(
        recipe=recipe,
        splits=splits,
        inputs=inputs,
        model=loaded.model,
        fresh=loaded.fresh,
        device=device,
        mixed_precision=mixed_precision,
        base_model=model.base_model or (checkpoint.name if checkpoint.commit else KNOWN_WEIGHTS.get(weights)),
        weights=weights,
        notes=(*splits.notes, *loaded.notes),
        processes=state.num_processes,
    )
    _, accumulation, rows_per_step = prepared.micro_batch
    # Refuses a step with too few rows now, rather than when training starts.
    StepBatches(
        len(splits.train), rows_per_step=rows_per_step, accumulation=accumulation, processes=state.num_processes
    )
    return prepared


def with_adapter(model: nn.Module, recipe: Recipe, fresh: tuple[str, ...]) -> PeftModel:
    """Put the recipe's adapter on the model, none of it on the layers that stay frozen."""
    config = recipe.adapter or adapters.lora_config(model, fresh=fresh)
    adapted = adapters.add_adapter(model, config, fresh, seed=recipe.train.seed)
    freeze.freeze_lower(adapted.get_base_model(), recipe.model.frozen_layers)
    return adapted


def _sha256(files: tuple[Path, ...]) -> str:
    """SHA-256 of the files' contents, one after another."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()


def load_splits(recipe: Recipe) -> Splits:
    """The recipe's data, see `data.load.load`."""
    data = recipe.data
    if isinstance(data, TextData):
        own = {"kind": "text", "text": data.text, "text_pair": data.text_pair, "encoding": data.encoding}
    else:
        own = {"kind": "image", "image": data.image}
    return load(
        data.path,
        config_name=data.config_name,
        revision=data.revision,
        label=data.label,
        validation=data.validation,
        test=data.test,
        validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
        split_seed=data.split_seed,
        max_train_rows=data.max_train_rows,
        **own,
    )
