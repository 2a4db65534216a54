"""What a run is made of: frozen dataclasses, cheap to import, each field its own documentation.

The text under a field is the text of `--help`. Fields of `Train` that `transformers.TrainingArguments` also has keep
its name and its meaning. A variant of a recipe is `dataclasses.replace(recipe, ...)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

Method = Literal["full", "lora", "top", "head"]
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
    decode_once: bool = True
    """Keep the resized pixels of all pictures on the disk, within `batching.cache_gb`, and read them from there in every
    epoch and every later run: the same pixels to the bit. False: decode every picture whenever it comes up."""
    low_resolution: int | None = None
    """Pixels of the pictures' shorter side in the first part of the training, rounded to whole patches: 160 of 224 costs
    about half. The rest of the training and every evaluation see full size. None: full size throughout."""
    low_resolution_share: float = 0.67
    """Share of the optimiser steps that `low_resolution` holds for."""
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
    top_layers: int = 2
    """With method top: this many of the highest encoder layers train, and what follows them; all below stays as it is."""
    frozen_layers: int = 0
    """Keep the embeddings and this many of the lowest encoder layers as they are; they run without dropout. 0: everything
    trains."""
    dropout: float | None = None
    """Rate of every dropout of the network, stochastic depth included. None: as the checkpoint's config says."""
    patch_drop: float = 0.0
    """Share of every picture's patches that is left out of a training step, drawn anew each time (arXiv:2208.07220): half
    of them, half the cost. For vit, deit and dinov2; evaluation sees all patches."""
    fast_dropout: bool = True
    """On a CPU, draw one dropout mask a forward pass and give every dropout a piece of it, in place of a mask each."""
    narrow_last_layer: bool = True
    """Compute the last layer for the first token alone where the head reads no other: the same logits for less work."""
    attn_implementation: Literal["eager", "sdpa"] | None = None
    """Attention kernel. None: on CPU eager (its backward is the faster one for short texts), or sdpa where `precision.probe`
    finds it faster; on GPU the library's choice."""


@dataclass(frozen=True)
class Supervised:
    """Cross-entropy against the labels."""

    label_smoothing: float = 0.0
    """Share of the target's mass that is spread evenly over all classes."""


@dataclass(frozen=True)
class Train:
    """Optimisation. Names that TrainingArguments has mean what they mean there."""

    learning_rate: float | None = None
    """Peak learning rate. None: 1e-3 for lora and head; on texts 1e-4 for full, 3e-4 for top; on pictures 2e-5 for both;
    see the README."""
    num_train_epochs: Annotated[float, _flag("--epochs")] = 3.0
    """Passes over the training rows."""
    max_steps: int = -1
    """Stop after this many optimiser steps, whatever the epochs. -1: by epochs."""
    per_device_train_batch_size: int = 32
    """Rows of one forward pass on one device; on a CPU pictures go through in smaller parts, to the same gradient."""
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
    cache_prefix: bool = True
    """Compute what frozen layers give for every row once, keep it on disk, and run only the layers above in every epoch."""
    cache_gb: float = 8.0
    """Gigabytes (10^9 bytes) that such activations may take on disk, over all runs; the least recently used go first."""
    token_budget: int | None = None
    """Padded tokens of one optimiser step over all processes and accumulation: short texts then come in large steps, long
    ones in small steps, and per_device_train_batch_size has no effect. None: every step has about the same number of rows."""
    unpadded: bool | None = None
    """Lay the texts of a batch end to end, without padding, each attending to itself alone. None: where a flash-attention
    kernel computes it (GPU, half precision, `flash-attn` installed, a family that is known to come out equal); on CPU it is
    exact but 3 to 7 times slower than batches of like length."""


@dataclass(frozen=True)
class Precision:
    """Number formats."""

    mixed_precision: Annotated[MixedPrecision, _flag("--mixed-precision")] = "auto"
    """Format of the training's matrix products; weights stay float32. auto: what `accelerate launch` asked for, else bf16
    where the hardware multiplies it natively, else no; in a run long enough to measure, whichever of these is faster."""
    float32_matmul: Literal["auto", "highest", "high", "medium"] = "auto"
    """How float32 matrix products are computed (`torch.set_float32_matmul_precision`). auto: highest; or medium, where it
    is faster and found to be just as exact on this processor."""
    threads: int | None = None
    """Threads of a process. None: all that there are; or half of them, where that is measured to be faster."""
    probe: bool = True
    """Time a few real steps before a long run (600 steps or more) and keep what is fastest among number formats, attention
    kernels and thread counts; a choice made once on this machine is used again. False: the defaults, unmeasured."""


@dataclass(frozen=True)
class Optim:
    """How weights are updated."""

    word_embeddings: Literal["sparse", "dense", "frozen"] = "sparse"
    """Word embeddings. sparse: the words of the training texts train, by the same update as under dense; the others
    stay as pretrained. dense: weight decay shrinks the others, too. frozen: none trains."""


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
    """What trains: all weights, LoRA adapters and the head, the top layers and the head, or the head alone. A PEFT config
    in `adapter` decides itself."""
    adapter: Annotated[Any, tyro.conf.Suppress] = None
    """A PEFT config; None with method lora: LoRA on every linear layer, see `models.adapters`."""
    objective: Supervised = Supervised()
    train: Train = Train()
    batching: Batching = Batching()
    precision: Precision = Precision()
    optim: Optim = Optim()
    evaluate: Evaluate = Evaluate()
    hub: Hub = Hub()

    @property
    def task(self) -> Literal["text-classification", "image-classification"]:
        """The Hub's name of the task."""
        return "text-classification" if isinstance(self.data, TextData) else "image-classification"

    @property
    def trained(self) -> str:
        """What result.json calls the method: full, top, head, or the PEFT type in lower case."""
        return self.method if self.adapter is None else str(self.adapter.peft_type.value).lower()

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained in place of the model's own weights."""
        return self.trained not in ("full", "top", "head")


@dataclass(frozen=True)
class Launch:
    """Where and how a recipe runs; no part of what it computes."""

    output: str | None = None
    """Folder of the run. Default: runs/<name>-<n>."""
    resume: bool = False
    """Go on with the run in `output`."""
    num_processes: int | None = None
    """Processes to share the work. Default: one, or what `accelerate launch` started."""
