"""What a run is made of: frozen dataclasses, cheap to import, each field its own documentation.

The text under a field is the text of `--help`. Fields of `Train` that `transformers.TrainingArguments` also has keep
its name and its meaning. A variant of a recipe is `dataclasses.replace(recipe, ...)`.
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import Annotated, Any, Literal

import tyro
from annotated_types import Ge, Interval, Le

from hf_finetune.augmentation.mixing import Mixing
from hf_finetune.config.aliases import current
from hf_finetune.config.data import ImageData, TextData, flag
from hf_finetune.distillation.config import DistillationKind, LogitKind, SoftTargets
from hf_finetune.distillation.weight_schedules import Weight, ends_of
from hf_finetune.evaluation.metrics import EpochMetric
from hf_finetune.models.peft.config import Adapter
from hf_finetune.models.surgery.operations import SurgeryStep
from hf_finetune.pretraining.config import Pretrain
from hf_finetune.training.losses.config import ClassWeights, CrossEntropy, Loss
from hf_finetune.training.optim.config import AdamW, Optimizer
from hf_finetune.training.optim.schedule_config import Schedule, ScheduleName
from hf_finetune.training.regularization.config import ElasticNet, GradientNoise
from hf_finetune.utils.config import (
    Choice,
    Count,
    CountOrZero,
    Fraction,
    MaxSteps,
    NonNegative,
    OpenFraction,
    Operations,
    Positive,
    Probability,
    Seed,
    configclass,
)
from hf_finetune.utils.config_errors import Check
from hf_finetune.utils.plain import merge

Method = Literal["full", "lora", "top", "head"]
MixedPrecision = Literal["auto", "no", "bf16", "fp16"]


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _are_names(teacher: str | tuple[str, ...]) -> bool:
    names = (teacher,) if isinstance(teacher, str) else teacher
    return bool(names) and all(names) and len(set(names)) == len(names)


HubId = Annotated[
    str, Check(re.compile(r"[\w.-]+(/[\w.-]+)?").fullmatch, "a Hub id like google-bert/bert-base-uncased")
]
Pattern = Annotated[str, Check(_is_pattern, "a regular expression")]
Teachers = Annotated[str | tuple[str, ...], Check(_are_names, "one name or several, each once")]


@configclass
class Model:
    """The pretrained checkpoint, and what is done to it before training."""

    checkpoint: Annotated[str, flag("--model")]
    """Hub id or folder of a BERT- or ViT-like checkpoint."""
    base_model: Annotated[HubId | None, flag("--base-model")] = None
    """Hub id that the card names as base model when `checkpoint` is a local folder."""
    revision: str | None = None
    """Branch, tag or commit of the checkpoint on the Hub."""
    trust_remote_code: Annotated[bool, flag("--trust-remote-code")] = False
    """Run Python code that comes with the checkpoint. Off: such a checkpoint is refused."""
    from_config: Annotated[dict[str, Any] | None, tyro.conf.Suppress] = None
    """Start from random weights (of `train.seed`). The network has the checkpoint's family and config, with these
    fields changed, such as {num_hidden_layers: 4, hidden_size: 192, num_attention_heads: 3, intermediate_size: 768}; {}
    changes none. Tokenizer or image processor are the checkpoint's, whose weights need not be there. None: the
    checkpoint's weights."""
    top_layers: CountOrZero = 2
    """With method top: train this many of the highest encoder layers and all above them; freeze the layers below."""
    frozen_layers: CountOrZero = 0
    """Freeze the embeddings and this many of the lowest encoder layers; frozen layers have no dropout. 0: everything
    trains."""
    trainable: Literal["all", "biases", "norms", "attention"] = "all"
    """With method full, which encoder weights train: all; biases (BitFit, arXiv:2106.10199); norms, their scale and
    shift; or attention. The head always trains."""
    trainable_pattern: Pattern | None = None
    """With method full: a regular expression. Weights whose name it matches (`layer\\.(10|11)\\.`) train, and the head.
    None: see `trainable`."""
    unfreeze_every: Positive | None = None
    """With method full or top: train the head alone at first, and one more layer from the top down every so many epochs
    (0.5: two an epoch), the embeddings last (arXiv:1801.06146). None: train all from the start."""
    pooling: Literal["default", "cls", "mean", "max", "attention"] = "default"
    """What the head reads of the last hidden states: the first token (cls); their mean or maximum without padding; or a
    learned weighted mean (attention). For images all but cls read the patches. default: as the family's own class. A
    model that no stock class can express is saved as encoder/ and head.safetensors in place of model/."""
    last_layers: Count = 1
    """Concatenate the hidden states of this many of the highest layers before pooling."""
    head: Literal["default", "linear", "mlp"] = "default"
    """linear: one layer on the pooled state. mlp: a hidden layer before it. default: as the family's own class where it
    can pool so (BERT on cls: a hidden layer with tanh), else linear."""
    head_width: Count | None = None
    """Width of the hidden layer of an mlp head. None: the width of the pooled state."""
    head_activation: Literal["tanh", "gelu", "relu"] | None = None
    """Activation of the hidden layer of an mlp head. None: the one of the family's own head (BERT: tanh), else gelu."""
    dropout: Fraction | None = None
    """Rate of every dropout of the network, stochastic depth included. None: the rates of the checkpoint's config."""
    patch_drop: Fraction = 0.0
    """Share of every image's patches that a training step leaves out, drawn anew each time (arXiv:2208.07220): half of
    them, half the cost. For vit, deit and dinov2. Evaluation sees all patches."""
    fast_dropout: bool = True
    """On CPU, draw one dropout mask per forward pass and give every dropout layer a part of it. Not with activation
    checkpointing."""
    fused_layers: bool = True
    """On CPU, compute each layer of BERT, RoBERTa, ELECTRA and DistilBERT as one function. Same numbers up to
    rounding."""
    fused_projections: bool = True
    """On CPU, train attention's query, key and value as one matrix product: a little faster, the same numbers up to
    rounding."""
    narrow_last_layer: bool = True
    """Compute the last layer for the first token alone where the head reads no other token: same logits, less work."""
    attn_implementation: Literal["eager", "sdpa"] | None = None
    """Attention kernel. None: on CPU eager (its backward pass is faster for short texts), or sdpa where
    `precision.probe` measures it to be faster; on GPU the library's choice."""
    surgery: Operations[SurgeryStep] = ()
    """Operations on the loaded checkpoint, in order: keep, drop, copy, add or reinitialize layers; change activations,
    dropout rates, widths, patch and kernel sizes, pooling, positions. See `models.surgery.operations`. The result loads
    with plain transformers. What a family's config cannot express is refused before anything is loaded."""

    @property
    def has_own_head(self) -> bool:
        """Whether rows are read, or classified, in another way than by the family's own class."""
        return (self.pooling, self.last_layers, self.head) != ("default", 1, "default")


@configclass
class Supervised:
    """The loss against the labels: a mean over the examples of a step, whatever the micro-batches and processes."""

    label_smoothing: Fraction = 0.0
    """Share of the target's probability that is spread evenly over all classes."""
    loss: Choice[Loss] = CrossEntropy()
    """What a row costs; the losses are listed at the end."""
    class_weights: Choice[ClassWeights | None] = None
    """Weight of an example's loss by its class: Balanced, EffectiveNumber or PerClass. Weights have a mean of 1 over
    the training set, not over a batch. The fitted head uses them, too. None: all classes weigh the same."""
    logit_adjustment: NonNegative = 0.0
    """In training, add this times the logarithm of its share to each class's logit (arXiv:2007.07314). 1: the model
    predicts as if all classes were equally frequent. 0: off."""
    r_drop: NonNegative = 0.0
    """Forward every example twice with different dropout, and add this times the symmetric KL divergence of the two
    predictions to the mean of their losses (arXiv:2106.14448). Twice the work. 0: off."""
    mix: Operations[Mixing] = ()
    """Mix the examples of a batch, and their labels in the same proportion. One of these is drawn for every forward
    pass: Mixup (for texts, of word embeddings), CutMix, ResizeMix; see `augmentation.mixing`. The logged training loss
    is that of the mixtures. (): no mixing."""


@configclass(kw_only=True)
class Distill(Supervised):
    """The loss against the labels and, added to it, losses against a teacher; `--teacher MODEL` alone chooses it."""

    teacher: Annotated[str | tuple[str, ...], Check(_are_names, "one name or several, each once"), flag("--teacher")]
    """Folder of a run or of a classifier, or a Hub id: a bigger or better model of the same classes, by their names. It
    reads the examples through its own tokenizer or processor, once; its logits are cached within `batching.cache_gb`
    for later runs. With online augmentation (`data.augment`) it predicts each epoch's views as the epoch begins. Also
    precomputed predictions (.parquet, .npy, a folder of them; `distillation.precomputed`), or a scikit-learn pipeline
    for texts (.skops). With several, `--teacher A B`, the mean of their probabilities teaches, and its logarithms stand
    for logits."""
    kinds: Operations[DistillationKind] = (SoftTargets(),)
    """Losses against the teacher, each with a weight. On its logits: SoftTargets, HardLabel, MatchLogits, DecoupledKD.
    On its features: HiddenStates, AttentionMaps, AttentionRelations, Embedding, RelationalKD, Contrastive. See
    `distillation.losses`. A DeiT has a second head for the teacher's predictions, on its distillation token; it
    predicts by both heads."""
    teacher_precision: Literal["float32", "bf16"] = "float32"
    """Number format of the teacher. bf16: examples whose predicted class could change are computed again in float32."""
    labels_weight: Weight = 0.5
    """Weight of the loss against the labels, for examples that have one; Ramp(start, end) changes it over the training.
    0: learn from the teacher alone."""

    @property
    def asks_labels(self) -> bool:
        """Whether the labels count at any time."""
        return any(ends_of(self.labels_weight))

    @property
    def asks_answers(self) -> bool:
        """Whether the teacher's predictions count at any time, and not its features alone."""
        return any(any(ends_of(kind.weight)) for kind in self.kinds if isinstance(kind, LogitKind))

    @property
    def teachers(self) -> tuple[str, ...]:
        """One name or several."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher


Objective = Supervised | Distill


@configclass
class Regularize:
    """Regularization of the weights."""

    elastic_net: ElasticNet = ElasticNet()
    """Pull chosen weights to exactly 0."""
    mixout: Fraction = 0.0
    """Share of the encoder's weights that a training step replaces by the pretrained ones, drawn anew each time
    (arXiv:1909.11299, in place of dropout: `model.dropout` 0). For methods full and top. 0: off."""
    gradient_noise: GradientNoise = GradientNoise()
    """Normal noise on the gradients, which falls over the training (arXiv:1511.06807)."""


@configclass
class Train:
    """Optimization. Names that TrainingArguments has mean what they mean there."""

    learning_rate: Positive | None = None
    """Peak learning rate. None: 1e-3 for head and lora (plain LoRA on texts: at a width of 768; 2e-3 at 384); for texts
    1e-4 with full, 3e-4 with top; for images 2e-5 with both; 5e-4 with model.from_config; see docs/benchmarks.md. SGD
    takes 100 times, Adafactor 25 times, Lion a tenth of that. `--find-lr` proposes one."""
    num_train_epochs: Annotated[Positive, flag("--epochs")] = 3.0
    """Passes over the training examples."""
    max_steps: MaxSteps = -1
    """Stop after this many optimizer steps, whatever the epochs. -1: by epochs."""
    per_device_train_batch_size: Count = 32
    """Examples of one forward pass on one device. On CPU images go through in smaller parts, to the same gradient."""
    per_device_eval_batch_size: Count = 64
    """Examples of one forward pass in evaluation."""
    gradient_accumulation_steps: Count = 1
    """Forward passes per optimizer step."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay (for SGD part of the gradient) of linear, convolution and embedding weights. None for
    biases, norms, layer scales, special tokens and added position tables."""
    warmup_steps: NonNegative | None = None
    """Steps of linear warm-up; below 1, a share of all steps. None: 0.06; 0 for constant, cyclic and one_cycle."""
    lr_scheduler_type: ScheduleName | None = None
    """Learning-rate schedule after the warm-up; its numbers stand in `schedule`. None: linear; with optimizer
    ScheduleFree constant_with_warmup."""
    max_grad_norm: NonNegative = 1.0
    """Clip the norm of the gradients to this."""
    seed: Annotated[Seed, flag("--seed")] = 0
    """Seed of the head's first weights, the order of examples and dropout. Never searched over."""
    logging_steps: Count = 10
    """Optimizer steps between two lines of log.jsonl; a loss that is not a number stops the run there."""
    head_warm_start: bool = True
    """Fit the classification layer first, by logistic regression on the untrained network's features
    (arXiv:2202.10054). Not with model.from_config, whose features are random."""
    head_inverse_strength: Positive | None = None
    """Inverse L2 penalty of that regression, on standardized features (scikit-learn's C): smaller values keep the head
    nearer to 0. None: 0.1 with method head; 0.01 with all others, which train it further."""
    head_least_explained: Annotated[float, Le(1)] | None = None
    """Keep the head random where the fit explains less than this share of the labels' entropy on held-out examples:
    such a head would tie the network to features that say little. 1: always random; -100: always fitted. None: 0.2;
    with method head, whose features stay as they are, always fitted."""
    early_stopping_patience: Count | None = None
    """Stop after this many epochs without a better validation metric. None: never."""
    keep_checkpoints: bool = False
    """Keep DIR/checkpoints after success."""
    extra: Annotated[dict[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    """Any further TrainingArguments, passed through unchanged. Pretraining gets them, too, but for eval_on_start,
    eval_delay, logging_first_step and report_to."""

    @property
    def checkpoints_activations(self) -> bool:
        """Whether activations are thrown away and computed again for the gradients, by either of the field's names."""
        return any(self.extra.get(name) for name in ("gradient_checkpointing", "activation_checkpointing"))


@configclass
class Batching:
    """How examples become batches."""

    rows_per_step: Count | None = None
    """Examples of one optimizer step over all processes and accumulation, so that the result does not depend on the
    number of processes. None: per_device_train_batch_size x gradient_accumulation_steps x processes."""
    by_length: bool = True
    """Batch texts of similar length: less padding, the same examples an epoch."""
    cache_prefix: bool = True
    """Compute the outputs of frozen layers once per example, cache them on disk, and run only the layers above in every
    epoch."""
    cache_gb: Positive = 8.0
    """Gigabytes (10^9 bytes) of disk for such activations, decoded images, stored augmented copies, generated texts and
    teacher logits together, over all runs. The least recently used are deleted first."""
    token_budget: Count | None = None
    """Padded tokens of one optimizer step over all processes and accumulation: many short texts or few long ones.
    per_device_train_batch_size has no effect then. Counted before online augmentation, which may lengthen texts. None:
    every step has about the same number of examples."""
    unpadded: bool | None = None
    """Concatenate the texts of a batch without padding; each attends to itself alone. None: where a flash-attention
    kernel computes it (GPU, half precision, `flash-attn` installed, a family verified to be equal). On CPU it is exact,
    but 3 to 7 times slower than batches of similar length."""
    sampling: Literal["none", "balanced", "square_root"] = "none"
    """Examples of an epoch. none: every example once. balanced: equally many of every class. square_root: in proportion
    to the square roots of the class sizes. The last two draw anew each epoch, with replacement for rare classes."""


@configclass
class Precision:
    """Number formats."""

    mixed_precision: Annotated[MixedPrecision, flag("--mixed-precision")] = "auto"
    """Format of matrix products in training; weights stay float32. auto: what `accelerate launch` requests, else bf16
    where the hardware multiplies it natively, else no; in long runs whichever is measured to be faster."""
    float32_matmul: Literal["auto", "highest", "high", "medium"] = "auto"
    """How float32 matrix products are computed (`torch.set_float32_matmul_precision`). auto: highest; or medium, where
    it is faster and measured to be equally exact on this processor."""
    threads: Count | None = None
    """Threads of a process. None: all; or half of them where that is measured to be faster."""
    probe: bool = True
    """Before a long run (600 steps or more), time a few real steps and use the fastest number format, attention kernel
    and thread count; the choice is stored for this machine. False: the defaults, unmeasured."""


@configclass
class Optim:
    """The optimizer and its learning rates."""

    optimizer: Choice[Optimizer] = AdamW()
    """What updates the weights; the optimizers are listed at the end."""
    head_learning_rate: Positive | None = None
    """Peak learning rate of the head: all above the encoder, and weights that the checkpoint does not have. None: the
    same as the encoder's."""
    layer_decay: Annotated[float, Interval(gt=0, le=1)] | None = None
    """Factor of the learning rate from each encoder layer to the one below (0.65 to 0.95 are usual). Of L layers, layer
    k, counted from 0 at the bottom, has the rate times this to the power L - k; the embeddings to the power L + 1.
    None: one rate."""
    lora_plus_ratio: Positive | None = None
    """Learning rate of LoRA's B matrices as a multiple of the rate (LoRA+, arXiv:2402.12354; 16 in the paper). None:
    1."""
    word_embeddings: Literal["sparse", "dense", "frozen"] = "sparse"
    """sparse: train the embeddings of the words in the training texts, with the same update as dense; the others keep
    their pretrained values (needs AdamW and no online augmentation; else all train). dense: train all; weight decay
    shrinks unseen words, too. frozen: train none."""
    sam_rho: NonNegative = 0.0
    """Sharpness-aware minimization (SAM, arXiv:2010.01412): take each step's gradient at this distance uphill, at twice
    the cost a step. 0.05 is usual, 0.5 to 2 with `sam_adaptive`. 0: off."""
    sam_adaptive: bool = False
    """Measure `sam_rho` relative to the size of each weight (ASAM, arXiv:2102.11600)."""


@configclass
class Averaging:
    """Averages of the weights over the run. Validation chooses between each of them and the best epoch's weights; the
    average wins ties, and result.json lists all. Not with an L1 penalty, whose zeros an average loses."""

    ema_decay: OpenFraction | None = None
    """Decay of an exponential moving average of the weights: 0.999, or (1 + t) / (10 + t) at step t where that is less.
    It is scored at each validation. None: no such average."""
    tail_share: Probability = 0.0
    """Average the weights over this share of the optimizer steps, the last ones (SWA, arXiv:1803.05407). Made for a
    learning rate that does not fall to 0. 0: off."""
    tail_every: Literal["step", "epoch"] = "step"
    """What `tail_share` averages: the weights after every step of the tail, or after every epoch in it."""
    soup: bool = False
    """Average the weights of the epochs, best first; an epoch is added unless the validation metric falls (greedy soup,
    arXiv:2203.05482). Takes disk space for the trained weights of every epoch."""


@configclass
class Evaluate:
    """Metrics, baselines and the parity gate."""

    metric: EpochMetric = "accuracy"
    """Validation metric that chooses the best epoch."""
    resamples: Annotated[int, Ge(100)] = 1000
    """Bootstrap resamples of every 95% interval."""
    baselines: bool = True
    """Fit the majority and the linear baseline."""
    parity_rows: Count = 64
    """Rows whose logits the saved folder must reproduce in a fresh process."""


@configclass
class Hub:
    """Where the result is published."""

    repo_id: Annotated[str | None, flag("--push")] = None
    """Repository on the Hub; created if needed. None: nothing is pushed."""
    private: bool = False
    """Make a new repository private."""
    revision: str | None = None
    """Branch to push to."""
    create_pr: bool = False
    """Open a pull request instead of committing."""
    license: str | None = None
    """License of the model, for the card."""
    language: str | None = None
    """Language of the texts (`en`), for the card."""


@configclass
class Lora:
    """The adapter of method lora, on every linear layer of the encoder (arXiv:2106.09685)."""

    r: Count = 8
    """Rank of the update of each weight matrix."""
    alpha: Positive = 16.0
    """The update is scaled by alpha / r."""
    dropout: Fraction = 0.0
    """Dropout rate of the adapter's input."""
    variant: Literal["plain", "rslora", "dora", "pissa", "olora"] = "plain"
    """rslora: scaled by alpha / sqrt(r) (arXiv:2312.03732). dora: magnitude and direction of each row are learned
    separately (arXiv:2402.09353). pissa, olora: initialized from the main directions of the pretrained weights
    (arXiv:2404.02948, arXiv:2406.01775)."""


@configclass
class Recipe:
    """One run, from labeled data to a verified classifier."""

    name: str
    """Name of the run: of its folder under runs/, and of its card."""
    data: Choice[TextData | ImageData]
    model: Model
    method: Method = "full"
    """What trains: all weights, LoRA adapters and the head, the top layers and the head, or the head alone. A PEFT
    config in `adapter` takes precedence."""
    adapter: Adapter = None
    """A PEFT config, or its type alone for PEFT's defaults. None with method lora: see `lora`."""
    lora: Lora = Lora()
    """LoRA by its numbers, where `adapter` is None."""
    pretrain: Pretrain = Pretrain()
    objective: Choice[Objective] = Supervised()
    regularize: Regularize = Regularize()
    train: Train = Train()
    batching: Batching = Batching()
    precision: Precision = Precision()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    averaging: Averaging = Averaging()
    evaluate: Evaluate = Evaluate()
    hub: Hub = Hub()

    @property
    def task(self) -> Literal["text-classification", "image-classification"]:
        """The Hub's name of the task."""
        return "text-classification" if isinstance(self.data, TextData) else "image-classification"

    @property
    def is_text(self) -> bool:
        """Whether it classifies texts, and not images."""
        return isinstance(self.data, TextData)

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher's predictions or features are learned."""
        return isinstance(self.objective, Distill)

    @property
    def distillation_kinds(self) -> tuple[DistillationKind, ...]:
        """What is learned of a teacher; () without one."""
        return self.objective.kinds if isinstance(self.objective, Distill) else ()

    @property
    def learns_prompts(self) -> bool:
        """Whether the adapter adds to the input, and not to weights."""
        return self.adapter is not None and self.adapter.is_prompt_learning

    @property
    def trained(self) -> str:
        """What result.json calls the method: full, top, head, or the PEFT type in lower case."""
        return self.method if self.adapter is None else str(self.adapter.peft_type.value).lower()

    @property
    def starts_from(self) -> str | None:
        """The checkpoint whose weights it begins with; None: with random ones alone."""
        return None if self.model.from_config is not None else self.model.checkpoint

    @property
    def fits_head(self) -> bool:
        """Whether the classification layer is fitted to the labels before training."""
        looked_at = not isinstance(self.objective, Distill) or self.objective.asks_labels
        return self.train.head_warm_start and self.model.from_config is None and looked_at

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained in place of the model's own weights."""
        return self.trained not in ("full", "top", "head")


@configclass
class Launch:
    """Where and how a recipe runs; no part of what it computes."""

    output: str | None = None
    """Folder of the run. Default: runs/<name>-<n>."""
    resume: bool = False
    """Resume the run in `output`."""
    num_processes: int | None = None
    """Number of processes. Default: one, or what `accelerate launch` started."""


def recipe_from_plain(plain: Any) -> Recipe:
    """Return the recipe that a recipe.json holds, of whatever version.

    Raises:
        InputError: an unknown field, or a value that does not fit.
    """
    blank = Recipe(name="", data=TextData(path=""), model=Model(checkpoint=""))
    return merge(blank, current(plain))
