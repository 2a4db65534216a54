"""Everything a run needs before its first step: data, tokenizer or processor, model, all of it checked."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from peft import PeftModel
from torch import nn

from hf_finetune.apply import quiet_libraries
from hf_finetune.checks import check
from hf_finetune.data.batching import StepBatches
from hf_finetune.data.inputs import ImageInputs, Inputs, TextInputs
from hf_finetune.data.load import Splits, load
from hf_finetune.models import adapters, freeze
from hf_finetune.models.first_token import first_token_alone
from hf_finetune.models.load import load_classifier, load_image_processor, load_tokenizer
from hf_finetune.models.patches import Shrink, drop_patches, shrink_for
from hf_finetune.models.safety import inspect_checkpoint
from hf_finetune.models.unpadded import use_unpadded
from hf_finetune.recipe import Recipe, TextData
from hf_finetune.training import precision
from hf_finetune.training.arguments import DECIDED
from hf_finetune.training.flops import patches

# Weights that this package's quickstart brings, by SHA-256: a local copy of them is named as what it is.
KNOWN_WEIGHTS = {
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db": "sentence-transformers/all-MiniLM-L6-v2"
}
# On a CPU a step of pictures is cut into forward passes of about so many tokens: 8 pictures at a time instead of 32 trained
# a ViT-small at 224 pixels 1.37 times as fast on two cores (its activations fit the caches, and are not mapped anew).
CPU_FORWARD_TOKENS = 2048


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
    shrink: Shrink | None = None
    """How pictures are made smaller in the first part of the training."""
    picture_tokens: int | None = None
    """Patches of a picture."""

    def goes_unpadded(self) -> bool:
        """Whether training goes without padding, see `models.unpadded.use_unpadded`.

        Raises:
            InputError: it was asked for and cannot be.
        """
        adapter = self.recipe.adapter
        return isinstance(self.inputs, TextInputs) and use_unpadded(
            self.recipe.batching.unpadded,
            self.model,
            device=self.device,
            autocast=self.autocast,
            reason="prompts cannot be put before every text of a packed row"
            if adapter is not None and adapter.is_prompt_learning
            else "",
        )

    def batches(self, lengths: np.ndarray | None) -> StepBatches:
        """The optimiser steps of the run, given the tokens of each training row.

        Raises:
            InputError: see `StepBatches`.
        """
        batching = self.recipe.batching
        _, accumulation, rows_per_step = self.micro_batch
        return StepBatches(
            len(self.splits.train),
            rows_per_step=rows_per_step,
            accumulation=accumulation,
            lengths=lengths if batching.by_length else None,
            token_budget=batching.token_budget,
            seed=self.recipe.train.seed,
            processes=self.processes,
        )

    @property
    def kernels(self) -> precision.Kernels:
        """What runs unless the start-up probe finds something faster."""
        wanted = self.recipe.precision
        return precision.Kernels(
            mixed_precision=self.mixed_precision,
            float32_matmul="highest" if wanted.float32_matmul == "auto" else wanted.float32_matmul,
            attention=self.model.config._attn_implementation,
            threads=wanted.threads or torch.get_num_threads(),
        )

    @property
    def free_kernels(self) -> frozenset[str]:
        """Fields of `kernels` that the probe may choose: those that neither the recipe nor the launcher names."""
        wanted = self.recipe.precision
        left = {
            "mixed_precision": wanted.mixed_precision == "auto" and not precision.launched(),
            "float32_matmul": wanted.float32_matmul == "auto",
            "attention": self.recipe.model.attn_implementation is None,
            # One process alone would be timed on the cores of all.
            "threads": wanted.threads is None and self.processes == 1,
        }
        return frozenset(name for name, is_left in left.items() if is_left)

    @property
    def autocast(self) -> torch.dtype | None:
        """Dtype of the matrix products while training and choosing."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.mixed_precision)

    @property
    def sparse_embeddings(self) -> bool:
        """Whether the words that occur train alone; only our own AdamW can do so."""
        optimizer = self.recipe.train.extra.get("optim", DECIDED["optim"])
        wanted = self.recipe.optim.word_embeddings == "sparse" and optimizer == DECIDED["optim"]
        table = self.model.get_input_embeddings()
        return wanted and isinstance(table, nn.Embedding) and not self.recipe.adapts and table.weight.requires_grad

    @property
    def micro_batch(self) -> tuple[int, int, int]:
        """Rows of a forward pass, forward passes per step and process, rows of a step."""
        train, wanted = self.recipe.train, self.recipe.batching.rows_per_step
        rows, accumulation = train.per_device_train_batch_size, train.gradient_accumulation_steps
        if wanted is None:
            wanted = rows * accumulation * self.processes
        else:
            rows = min(rows, -(-wanted // self.processes))
            accumulation = -(-wanted // (rows * self.processes))
        if self.device.type == "cpu" and self.picture_tokens is not None:
            steps = -(-len(self.splits.train) // wanted)
            smallest_share = len(self.splits.train) // steps // self.processes // accumulation
            parts = max(1, min(-(-rows * self.picture_tokens // CPU_FORWARD_TOKENS), smallest_share))
            rows, accumulation = -(-rows // parts), accumulation * parts
        return rows, accumulation, wanted


def prepare(recipe: Recipe) -> Prepared:
    """Load and check everything that can be wrong, before anything is written.

    Raises:
        InputError: see `checks.check`, `data.load.load` and `models.load`.
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
        inputs = ImageInputs(
            load_image_processor(checkpoint.name, **which),
            decode_once=data.decode_once,
            cache_gb=recipe.batching.cache_gb,
        )
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
    shrink, picture_tokens = None, None
    if isinstance(inputs, ImageInputs):
        picture = tuple(inputs.collate(splits.train[:1])["pixel_values"].shape[1:])
        picture_tokens = patches(loaded.model.config, picture)
        drop_patches(loaded.model, model.patch_drop)
        if data.low_resolution is not None:
            shrink = shrink_for(loaded.model, data.low_resolution)
            shrink.shape(*picture[-2:])
    freeze.freeze_batch_norm(loaded.model)
    if recipe.trained == "head":
        freeze.freeze_body(loaded.model, loaded.fresh)
    if recipe.trained == "top":
        freeze.train_top(loaded.model, model.top_layers)
    freeze.freeze_lower(loaded.model, model.frozen_layers)
    if recipe.optim.word_embeddings == "frozen" and isinstance(data, TextData):
        loaded.model.get_input_embeddings().requires_grad_(False)
    if recipe.adapts:
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
        shrink=shrink,
        picture_tokens=picture_tokens,
    )
    # What these refuse is refused now, rather than when training starts.
    if recipe.batching.token_budget is None:
        prepared.batches(None)
    if not prepared.goes_unpadded() and model.narrow_last_layer:
        first_token_alone(loaded.model)
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
