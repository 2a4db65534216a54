"""What a run is made of: frozen dataclasses, cheap to import, each field its own documentation.

The text under a field is the text of `--help`. Fields of `Train` that `transformers.TrainingArguments` also has keep
its name and its meaning. A variant of a recipe is `dataclasses.replace(recipe, ...)`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from hf_finetune.codec import flatten, to_plain
from hf_finetune.errors import InputError

Method = Literal["full", "lora", "head"]
MixedPrecision = Literal["auto", "no", "bf16", "fp16"]


def _flag(*aliases: str) -> Any:
    """A nested field that also has short names on the command line (`--epochs` for `--train.num-train-epochs`)."""
    return tyro.conf.arg(aliases=aliases)


@dataclass(frozen=True)
class TextData:
    """Labelled texts, or pairs of texts."""

    path: str
    """Hub id, csv/tsv/json/jsonl/parquet file, or a folder: of split files, or of one sub-folder of .txt files a class."""
    config_name: Annotated[str | None, _flag("--config-name")] = None
    """Configuration of a Hub data set (`mnli` of `nyu-mll/glue`)."""
    revision: Annotated[str | None, _flag("--revision")] = None
    """Branch, tag or commit of a Hub data set."""
    validation: Annotated[str | None, _flag("--validation")] = None
    """Validation rows: the name of a split of the data, or a file of its own. Default: the data's own, else carved from train."""
    test: Annotated[str | None, _flag("--test")] = None
    """Test rows: the name of a split of the data, or a file of its own."""
    text: Annotated[str | None, _flag("--text")] = None
    """Column of the text. Default: the obvious one, said aloud."""
    text_pair: Annotated[str | None, _flag("--text-pair")] = None
    """Column of the second text, for sentence pairs."""
    label: Annotated[str | None, _flag("--label")] = None
    """Column of the class. Default: the obvious one, said aloud."""
    max_length: Annotated[int, _flag("--max-length")] = 128
    """Longest text in tokens, special tokens included; the rest is cut off. Stored with the tokenizer."""
    validation_fraction: float = 0.1
    """Share of the training rows carved off for validation when the data has none."""
    test_fraction: float = 0.0
    """Share of the rows carved off for test when the data has none. 0: no test split, and no claim about test."""
    split_seed: int = 0
    """Seed of the carving; apart from `train.seed`, so that runs with other seeds are judged on the same rows."""
    max_train_rows: Annotated[int | None, _flag("--max-train-rows")] = None
    """Train on this many rows at most, drawn with `split_seed`, the classes' shares kept."""
    encoding: str = "utf-8"
    """Encoding of text files."""
    license: str | None = None
    """Licence of the data, for the model card."""


@dataclass(frozen=True)
class ImageData:
    """Labelled pictures."""

    path: str
    """Hub id, parquet file with an image column, folder of such files, or a folder of one sub-folder of pictures a class."""
    config_name: Annotated[str | None, _flag("--config-name")] = None
    """Configuration of a Hub data set."""
    revision: Annotated[str | None, _flag("--revision")] = None
    """Branch, tag or commit of a Hub data set."""
    validation: Annotated[str | None, _flag("--validation")] = None
    """Validation rows: the name of a split of the data, or a file or folder of its own. Default: the data's own, else carved from train."""
    test: Annotated[str | None, _flag("--test")] = None
    """Test rows: the name of a split of the data, or a file or folder of its own."""
    image: Annotated[str | None, _flag("--image")] = None
    """Column of the picture. Default: the obvious one, said aloud."""
    label: Annotated[str | None, _flag("--label")] = None
    """Column of the class. Default: the obvious one, said aloud."""
    validation_fraction: float = 0.1
    """Share of the training rows carved off for validation when the data has none."""
    test_fraction: float = 0.0
    """Share of the rows carved off for test when the data has none. 0: no test split, and no claim about test."""
    split_seed: int = 0
    """Seed of the carving; apart from `train.seed`, so that runs with other seeds are judged on the same rows."""
    max_train_rows: Annotated[int | None, _flag("--max-train-rows")] = None
    """Train on this many rows at most, drawn with `split_seed`, the classes' shares kept."""
    license: str | None = None
    """Licence of the data, for the model card."""


@dataclass(frozen=True)
class Model:
    """The pretrained checkpoint and what is done to it before training."""

    checkpoint: Annotated[str, _flag("--model")]
    """Hub id or folder of a BERT- or ViT-like checkpoint."""
    base_model: Annotated[str | None, _flag("--base-model")] = None
    """Hub id that the card names as base model when `checkpoint` is a local folder."""
    revision: str | None = None
    """Branch, tag or commit of the checkpoint on the Hub."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. Off: such a checkpoint is refused."""
    frozen_layers: int = 0
    """Keep the embeddings and this many of the lowest encoder layers as they are. 0: everything trains."""
    dropout: float | None = None
    """Rate of every dropout of the network, stochastic depth included. None: as the checkpoint's config says."""
    attn_implementation: Literal["eager", "sdpa"] | None = None
    """Attention kernel. None: eager on CPU (its backward is the faster one for short texts), the library's choice on GPU."""


@dataclass(frozen=True)
class Supervised:
    """Cross-entropy against the labels."""

    label_smoothing: float = 0.0
    """Share of the target's mass that is spread evenly over all classes."""


@dataclass(frozen=True)
class Train:
    """Optimisation. Names that TrainingArguments has mean what they mean there."""

    learning_rate: float | None = None
    """Peak learning rate. None: 1e-3 for lora and head; for full 1e-4 on texts, 2e-5 on pictures; see the README."""
    num_train_epochs: Annotated[float, _flag("--epochs")] = 3.0
    """Passes over the training rows."""
    max_steps: int = -1
    """Stop after this many optimiser steps, whatever the epochs. -1: by epochs."""
    per_device_train_batch_size: int = 32
    """Rows of one forward pass on one device."""
    per_device_eval_batch_size: int = 64
    """Rows of one forward pass when nothing is trained."""
    gradient_accumulation_steps: int = 1
    """Forward passes per optimiser step."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on matrices only."""
    warmup_steps: float = 0.06
    """Steps of linear warm-up; below 1, the share of all steps."""
    lr_scheduler_type: Literal["linear", "cosine", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"] = (
        "linear"
    )
    """Course of the learning rate after the warm-up."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm when theirs is larger."""
    seed: Annotated[int, _flag("--seed")] = 0
    """Seed of the head's first weights, the row order and dropout. Never searched over."""
    logging_steps: int = 10
    """Optimiser steps between two lines of log.jsonl; a loss that is not a number is noticed there."""
    head_warm_start: bool = True
    """Fit the classification layer by logistic regression on the untrained network's features first (arXiv:2202.10054)."""
    early_stopping_patience: int | None = None
    """Stop after this many epochs without a better validation metric. None: never."""
    keep_checkpoints: bool = False
    """Keep DIR/checkpoints after success."""
    extra: Annotated[dict[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    """Any further TrainingArguments, passed through as they are."""


@dataclass(frozen=True)
class Batching:
    """How rows become batches."""

    rows_per_step: int | None = None
    """Rows of one optimiser step over all processes and accumulation, so that the result does not depend on how many
    processes share the work. None: per_device_train_batch_size x gradient_accumulation_steps x processes."""
    by_length: bool = True
    """Put texts of like length into one step: less padding, the same rows an epoch."""


@dataclass(frozen=True)
class Precision:
    """Number formats."""

    mixed_precision: Annotated[MixedPrecision, _flag("--mixed-precision")] = "auto"
    """Format of the training's matrix products; weights stay float32. auto: what `accelerate launch` asked for, else bf16
    where the hardware multiplies it natively, else no."""


@dataclass(frozen=True)
class Evaluate:
    """Metrics, baselines and the parity gate."""

    metric: Literal["accuracy", "balanced_accuracy", "macro_f1", "matthews_correlation", "log_loss"] = "accuracy"
    """Validation metric that chooses the epoch whose weights are kept."""
    resamples: int = 1000
    """Bootstrap resamples behind every 95% interval."""
    baselines: bool = True
    """Fit the majority and the linear baseline beside the model."""
    parity_rows: int = 64
    """Rows whose logits the saved folder must reproduce in a fresh process."""


@dataclass(frozen=True)
class Hub:
    """Where the result goes."""

    repo_id: Annotated[str | None, _flag("--push")] = None
    """Repository on the Hub; created when it is not there. None: nothing is pushed."""
    private: bool = False
    """Make a new repository private."""
    revision: str | None = None
    """Branch to push to."""
    create_pr: bool = False
    """Open a pull request instead of committing."""
    license: str | None = None
    """Licence of the model, for the card."""
    language: str | None = None
    """Language of the texts (`en`), for the card."""


@dataclass(frozen=True)
class Recipe:
    """One run, from labelled data to a verified classifier."""

    name: str
    """What the run is called: its folder under runs/, its card's title."""
    data: Annotated[TextData | ImageData, tyro.conf.AvoidSubcommands]
    model: Model
    method: Method = "full"
    """What trains: all weights, LoRA adapters and the head, or the head alone. A PEFT config in `adapter` decides itself."""
    adapter: Annotated[Any, tyro.conf.Suppress] = None
    """A PEFT config; None with method lora: LoRA on every linear layer, see `models.adapters`."""
    objective: Supervised = Supervised()
    train: Train = Train()
    batching: Batching = Batching()
    precision: Precision = Precision()
    evaluate: Evaluate = Evaluate()
    hub: Hub = Hub()

    @property
    def task(self) -> Literal["text-classification", "image-classification"]:
        """The Hub's name of the task."""
        return "text-classification" if isinstance(self.data, TextData) else "image-classification"

    @property
    def trained(self) -> str:
        """What result.json calls the method: full, head, or the PEFT type in lower case."""
        return self.method if self.adapter is None else str(self.adapter.peft_type.value).lower()


@dataclass(frozen=True)
class Launch:
    """Where and how a recipe runs; no part of what it computes."""

    output: str | None = None
    """Folder of the run. Default: runs/<name>-<n>."""
    resume: bool = False
    """Go on with the run in `output`."""
    num_processes: int | None = None
    """Processes to share the work. Default: one, or what `accelerate launch` started."""


def check(recipe: Recipe) -> None:
    """Refuse values that no type can: ranges and combinations.

    Raises:
        InputError: naming the field, the value and the range.
    """
    train, data, model = recipe.train, recipe.data, recipe.model

    def refuse(name: str, value: Any, expected: str) -> None:
        raise InputError(f"{name}: expected {expected}, got {value!r}")

    for name, value in flatten(to_plain(recipe)).items():
        if isinstance(value, float) and not math.isfinite(value):
            refuse(name, value, "a finite number")
    if train.learning_rate is not None and not 0 < train.learning_rate < math.inf:
        refuse("train.learning_rate", train.learning_rate, "a number above 0")
    if not train.num_train_epochs > 0:
        refuse("train.num_train_epochs", train.num_train_epochs, "a number above 0")
    for name in (
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        "logging_steps",
    ):
        if getattr(train, name) < 1:
            refuse(f"train.{name}", getattr(train, name), "at least 1")
    for name in ("warmup_steps", "weight_decay", "max_grad_norm"):
        if getattr(train, name) < 0:
            refuse(f"train.{name}", getattr(train, name), "0 or more")
    if train.max_steps == 0 or train.max_steps < -1:
        refuse("train.max_steps", train.max_steps, "at least 1, or -1 for as many as the epochs have")
    if train.early_stopping_patience is not None and train.early_stopping_patience < 1:
        refuse("train.early_stopping_patience", train.early_stopping_patience, "at least 1")
    for name, seed in (("train.seed", train.seed), ("data.split_seed", data.split_seed)):
        if not 0 <= seed < 2**32:
            refuse(name, seed, "a whole number from 0 to 4294967295")
    if not 0 <= recipe.objective.label_smoothing < 1:
        refuse("objective.label_smoothing", recipe.objective.label_smoothing, "at least 0 and below 1")
    for name in ("validation_fraction", "test_fraction"):
        if not 0 <= getattr(data, name) < 1:
            refuse(f"data.{name}", getattr(data, name), "at least 0 and below 1")
    if data.max_train_rows is not None and data.max_train_rows < 2:
        refuse("data.max_train_rows", data.max_train_rows, "at least 2")
    if isinstance(data, TextData) and data.max_length < 4:
        refuse("data.max_length", data.max_length, "at least 4 tokens")
    if model.dropout is not None and not 0 <= model.dropout < 1:
        refuse("model.dropout", model.dropout, "at least 0 and below 1")
    if model.frozen_layers < 0:
        refuse("model.frozen_layers", model.frozen_layers, "0 or more")
    if model.base_model is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model.base_model):
        refuse("model.base_model", model.base_model, "a Hub id like google-bert/bert-base-uncased")
    if recipe.adapter is not None and not type(recipe.adapter).__module__.startswith("peft."):
        refuse("adapter", recipe.adapter, "a PEFT config like LoraConfig(...), in YAML {peft_type: LORA, ...}")
    if recipe.adapter is not None and recipe.method == "head":
        refuse("method", recipe.method, "full or lora beside an adapter")
    if recipe.evaluate.resamples < 100:
        refuse("evaluate.resamples", recipe.evaluate.resamples, "at least 100")
    if recipe.evaluate.parity_rows < 1:
        refuse("evaluate.parity_rows", recipe.evaluate.parity_rows, "at least 1")
    if recipe.batching.rows_per_step is not None:
        if recipe.batching.rows_per_step < 1:
            refuse("batching.rows_per_step", recipe.batching.rows_per_step, "at least 1")
        if train.gradient_accumulation_steps != 1:
            refuse(
                "train.gradient_accumulation_steps",
                train.gradient_accumulation_steps,
                "1 beside batching.rows_per_step, which derives it",
            )
