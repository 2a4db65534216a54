"""Configuration of the training loop: length, batches, number formats and weight averages."""

from dataclasses import field, replace
from typing import Annotated, Any, Literal, Self

import tyro
from annotated_types import Le

from hf_finetune.training.optim.schedule_config import ScheduleName
from hf_finetune.training.trackers.config import TRACKERS, TrackerNames
from hf_finetune.utils.config import (
    Count,
    Duration,
    Epochs,
    MaxSteps,
    NonNegative,
    OpenFraction,
    Positive,
    Probability,
    Seed,
    configclass,
    flag,
)

EPOCHS = 3.0
MixedPrecision = Literal["auto", "no", "bf16", "fp16"]


@configclass
class Train:
    """The training loop. Fields that TrainingArguments has keep its names and meanings."""

    learning_rate: Positive | None = None
    """Peak learning rate. The default depends on the method. head and lora: 1e-3 (plain LoRA on texts: more for a
    narrow encoder, 2e-3 at a width of 384). full: 1e-4 for texts, 2e-5 for images. top: 3e-4 for texts, 2e-5 for
    images. With model.from_config: 5e-4. SGD takes 100 times this default, Adafactor 25 times, Lion a tenth.
    `--find-lr` proposes a rate. See docs/benchmarks.md."""
    num_train_epochs: Annotated[Epochs | None, flag("--epochs")] = None
    """Passes over the training examples. None: 3; with few examples as many as make 100 optimizer steps, and smaller
    steps if `batching.rows_per_step` and the sizes of forward passes are not set. A line says so."""
    max_steps: MaxSteps = -1
    """Stop after this many optimizer steps, regardless of epochs. -1: train for num_train_epochs."""
    per_device_train_batch_size: Count = 32
    """Examples of one forward pass on one device. On CPU, images are processed in smaller parts, with the same
    gradient."""
    per_device_eval_batch_size: Count = 64
    """Examples of one forward pass in evaluation."""
    gradient_accumulation_steps: Count = 1
    """Forward passes per optimizer step."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay (for SGD part of the gradient) of linear, convolution and embedding weights. None for
    biases, norms, layer scales, special tokens and added position tables."""
    warmup_steps: NonNegative | None = None
    """Steps of linear warm-up. Below 1: a share of all steps. The default is 0.06, and 0 for constant, cyclic and
    one_cycle."""
    lr_scheduler_type: ScheduleName | None = None
    """Learning-rate schedule after the warm-up. `schedule` has its parameters. The default is linear, and
    constant_with_warmup for optimizer ScheduleFree."""
    max_grad_norm: NonNegative = 1.0
    """Clip the norm of the gradients to this."""
    seed: Annotated[Seed, flag("--seed")] = 0
    """Seed of the head's initial weights, the order of examples and dropout. Never searched over."""
    logging_steps: Count = 10
    """Optimizer steps between two lines of log.jsonl, where a NaN loss stops the run."""
    head_warm_start: bool = True
    """Fit the classification layer first, by logistic regression on the untrained network's features
    (arXiv:2202.10054). Not with model.from_config, whose features are random."""
    head_inverse_strength: Positive | None = None
    """Inverse L2 penalty of that regression on standardized features (scikit-learn's C). Smaller values keep the head
    nearer to 0. With a linear head and method head held-out rows choose 0.1, 0.01 or 0.001 where a row has one class,
    and it is 0.1 elsewhere. It is 0.01 with all other methods, which train the head further."""
    head_least_explained: Annotated[float, Le(1)] | None = None
    """Keep the head random if the fit explains less than this share of the labels' entropy on held-out examples. Such a
    fit would tie the network to uninformative features. 1: always random. -100: always fitted. The default is 0.2.
    Method head, which does not train the features, always takes the fit by default."""
    early_stopping_patience: Count | None = None
    """Stop after this many validations (one an epoch, see `validate_every`) without a better metric. None: never."""
    validate_every: Count = 1
    """Epochs from one validation to the next, each with a checkpoint; the last epoch is always validated. Where
    num_train_epochs is None and epochs are short, about 10 steps lie between two."""
    save_steps: Count | None = None
    """Save a checkpoint after every so many optimizer steps, besides after each epoch: --resume continues from the last
    one to the same bits. None: after each epoch."""
    save_every: Annotated[Duration | None, flag("--save-every")] = None
    """Save a checkpoint when so much time has passed since the last one: 90s, 10m, 1h30m. None: after each epoch."""
    max_time: Annotated[Duration | None, flag("--max-time")] = None
    """Stop training when it has taken so long, whatever steps are left: 90s, 10m, 1h30m. The learning-rate schedule is
    that of all steps. A resumed run has as long again. None: no limit."""
    fit_schedule: bool = False
    """Let the learning-rate schedule end with max_time, where not all steps fit into it."""
    keep_checkpoints: bool = False
    """Keep DIR/checkpoints after success."""
    report_to: Annotated[TrackerNames, tyro.conf.arg(aliases=["--report-to"], metavar="NAME,NAME,...")] = ()
    """Experiment trackers: tensorboard, trackio, wandb, mlflow, several with commas between them. Each needs the extra
    of its name. They write into DIR/logs while the run trains, and send nothing, unless their own environment variables
    say so. See docs/tracking.md."""
    extra: Annotated[dict[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    """Further TrainingArguments, passed through unchanged; those that the run decides itself are refused. Pretraining
    gets them, too, except eval_on_start, eval_delay, logging_first_step and report_to."""

    @property
    def epochs(self) -> float:
        """`num_train_epochs`, or the default for many examples."""
        return EPOCHS if self.num_train_epochs is None else self.num_train_epochs

    @property
    def trackers(self) -> tuple[str, ...]:
        """The trackers in `report_to`, and those in `extra`, where earlier versions had them."""
        earlier = self.extra.get("report_to") or ()
        names = (earlier,) if isinstance(earlier, str) else earlier
        return tuple(dict.fromkeys((*self.report_to, *(name for name in names if name in TRACKERS))))

    def untracked(self) -> Self:
        """Return the same training without trackers and other services."""
        extra = {name: value for name, value in self.extra.items() if name != "report_to"}
        return replace(self, report_to=(), extra=extra)

    @property
    def uses_gradient_checkpointing(self) -> bool:
        """Whether `extra` turns on gradient checkpointing, by either of its names."""
        return any(self.extra.get(name) for name in ("gradient_checkpointing", "activation_checkpointing"))


@configclass
class Batching:
    """How examples become batches."""

    rows_per_step: Count | None = None
    """Examples of one optimizer step over all processes and accumulation, so that the result does not depend on the
    number of processes. None: per_device_train_batch_size x gradient_accumulation_steps x processes."""
    by_length: bool = True
    """Batch texts of similar length. This saves padding and leaves the examples of an epoch the same."""
    cache_prefix: bool = True
    """Compute the outputs of frozen layers once per example, cache them on disk, and run only the layers above in every
    epoch."""
    cache_gb: Positive = 8.0
    """Gigabytes (10^9 bytes) of disk for the caches of all runs together: activations, decoded images, augmented
    copies, generated texts, teacher logits and fitted heads. The least recently used entries are deleted first."""
    token_budget: Count | None = None
    """Padded tokens of one optimizer step over all processes and accumulation. A step then has many short texts or few
    long ones, and per_device_train_batch_size has no effect. Tokens are counted before online augmentation, which may
    lengthen texts. None: all steps have about the same number of examples. Experimental: 5% more rows a second in one
    run, as much as single runs differ, and its effect on quality was not measured (docs/benchmarks.md#speed)."""
    unpadded: bool | None = None
    """Concatenate the texts of a batch without padding. Each text attends only to itself. On CPU this is exact, but 3
    to 7 times slower than batches of similar length. None: only where a flash-attention kernel computes it. That takes
    a GPU, half precision, the package `flash-attn`, and a family verified to give equal results. Experimental: 5 times
    slower on a CPU, and never run on a GPU (docs/benchmarks.md#speed)."""
    sampling: Literal["none", "balanced", "square_root"] = "none"
    """Examples of an epoch. none: every example once. balanced: equally many of every class. square_root: in proportion
    to the square roots of the class sizes. The last two draw anew in each epoch, and repeat examples of rare
    classes."""


@configclass
class Precision:
    """Number formats."""

    mixed_precision: Annotated[MixedPrecision, flag("--mixed-precision")] = "auto"
    """Number format of matrix products in training. Weights stay float32. auto: what `accelerate launch` requests, else
    bf16 on hardware with native bf16, else no. A long run measures the formats and takes the fastest, see `probe`."""
    float32_matmul: Literal["auto", "highest", "high", "medium"] = "auto"
    """Precision of float32 matrix products (`torch.set_float32_matmul_precision`). auto: highest, or medium if it is
    measured to be faster and equally exact on this processor."""
    threads: Count | None = None
    """Threads of a process. None: all."""
    probe: bool = True
    """Before a long run (600 steps or more), time a few real steps. The run uses the fastest number format and
    attention kernel. The choice is cached on this machine. False, or where it cannot be cached: use the defaults."""


@configclass
class Averaging:
    """Averages of the weights over the run. Validation compares each average with the best epoch's weights. An average
    wins ties. result.json lists all. Averages do not go with an L1 penalty, because they lose its zeros."""

    ema_decay: OpenFraction | None = None
    """Decay of an exponential moving average of the weights, such as 0.999. Early steps use (1 + t) / (10 + t) at step
    t, while that is less. The average is evaluated at each validation. None: off."""
    tail_share: Probability = 0.0
    """Average the weights over this last share of the optimizer steps (SWA, arXiv:1803.05407). Meant for a learning
    rate that does not decay to 0. 0: off."""
    tail_every: Literal["step", "epoch"] = "step"
    """What `tail_share` averages: the weights after every step of the tail, or after every epoch in it."""
    soup: bool = False
    """Average the weights of the epochs (greedy soup, arXiv:2203.05482). Epochs are tried best first, and one is added
    unless the validation metric falls. Takes disk space for the trained weights of every epoch."""
    runs: tuple[str, ...] = ()
    """Folders of finished runs whose weights are averaged with those of this one, once it is trained (uniform soup,
    arXiv:2203.05482). They started from the same checkpoint and have the same classes, such as runs with other values
    of `--seed`. The average is taken unless a paired test on the validation rows finds it worse."""

    @property
    def in_run(self) -> bool:
        """Whether weights of several steps of the run are averaged."""
        return self.ema_decay is not None or self.tail_share > 0 or self.soup
