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
from hf_finetune.config.data import ImageData, TextData, flag
from hf_finetune.distillation.config import DistillationKind, LogitKind, SoftTargets
from hf_finetune.distillation.weight_schedules import Weight, ends_of
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
    """The pretrained checkpoint and what is done to it before training."""

    checkpoint: Annotated[str, flag("--model")]
    """Hub id or folder of a BERT- or ViT-like checkpoint."""
    base_model: Annotated[HubId | None, flag("--base-model")] = None
    """Hub id that the card names as base model when `checkpoint` is a local folder."""
    revision: str | None = None
    """Branch, tag or commit of the checkpoint on the Hub."""
    trust_remote_code: Annotated[bool, flag("--trust-remote-code")] = False
    """Run Python code that comes with the checkpoint. Off: such a checkpoint is refused."""
    from_config: Annotated[dict[str, Any] | None, tyro.conf.Suppress] = None
    """Start from random weights (of `train.seed`), in a network of the checkpoint's family with these fields of its config set
    otherwise, such as {num_hidden_layers: 4, hidden_size: 192, num_attention_heads: 3, intermediate_size: 768}; {} is its own
    size. The tokenizer or image processor is the checkpoint's, of which no weights need be there. None: its weights."""
    top_layers: CountOrZero = 2
    """With method top: this many of the highest encoder layers train, and what follows them; all below stays as it is."""
    frozen_layers: CountOrZero = 0
    """Keep the embeddings and this many of the lowest encoder layers as they are; they run without dropout. 0: everything
    trains."""
    trainable: Literal["all", "biases", "norms", "attention"] = "all"
    """With method full, which of the encoder's weights train: all; biases alone (BitFit, arXiv:2106.10199); norms alone, their
    scale and shift; or attention alone. The head trains in any case."""
    trainable_pattern: Pattern | None = None
    """With method full: a regular expression; the weights in whose name it is found train (`layer\\.(10|11)\\.`), and the
    head. None: see `trainable`."""
    unfreeze_every: Positive | None = None
    """With method full or top: train the head alone at first, and one more layer from the top down every so many epochs (0.5:
    two an epoch), the embeddings last (arXiv:1801.06146). None: all from the start."""
    pooling: Literal["default", "cls", "mean", "max", "attention"] = "default"
    """What the head reads of a row's states: the first token (cls), their mean or maximum without padding, or a learned
    weighted mean (attention); of images all but cls read the patches. default: as the family's own class. What no stock
    class can say is saved as encoder/ and head.safetensors in place of model/; what one can say is folded into it."""
    last_layers: Count = 1
    """Put the states of this many of the highest layers side by side before the pooling."""
    head: Literal["default", "linear", "mlp"] = "default"
    """linear: one layer on what was pooled; mlp: a hidden layer before it. default: as the family's own class where that
    can pool so (BERT on cls: a hidden layer with tanh), else linear."""
    head_width: Count | None = None
    """Width of the hidden layer of an mlp. None: as wide as what was pooled."""
    head_activation: Literal["tanh", "gelu", "relu"] | None = None
    """Activation of the hidden layer of an mlp. None: that of the family's own head (BERT: tanh), else gelu."""
    dropout: Fraction | None = None
    """Rate of every dropout of the network, stochastic depth included. None: as the checkpoint's config says."""
    patch_drop: Fraction = 0.0
    """Share of every image's patches that is left out of a training step, drawn anew each time (arXiv:2208.07220): half
    of them, half the cost. For vit, deit and dinov2; evaluation sees all patches."""
    fast_dropout: bool = True
    """On a CPU, draw one dropout mask a forward pass and give every dropout a piece of it, in place of a mask each; not
    where activations are checkpointed."""
    fused_layers: bool = True
    """On a CPU, compute each layer of BERT, RoBERTa, ELECTRA and DistilBERT as one function: the same numbers to rounding."""
    fused_projections: bool = True
    """On a CPU, train attention's query, key and value as one matrix product: the same numbers to rounding, a little faster."""
    narrow_last_layer: bool = True
    """Compute the last layer for the first token alone where the head reads no other: the same logits for less work."""
    attn_implementation: Literal["eager", "sdpa"] | None = None
    """Attention kernel. None: on CPU eager (its backward is the faster one for short texts), or sdpa where `precision.probe`
    finds it faster; on GPU the library's choice."""
    surgery: Operations[SurgeryStep] = ()
    """Operations on the loaded checkpoint, in order: layers kept, dropped, copied, added or begun anew, other activations,
    dropout rates, widths, patch and kernel sizes, pooling, more positions; see `models.surgery.operations`. The result loads with plain
    transformers; what a family's config cannot say is refused before anything is loaded."""

    @property
    def has_own_head(self) -> bool:
        """Whether rows are read, or classified, in another way than by the family's own class."""
        return (self.pooling, self.last_layers, self.head) != ("default", 1, "default")


@configclass
class Supervised:
    """The loss against the labels: a mean over the rows of a step, whatever the micro-batches and processes."""

    label_smoothing: Fraction = 0.0
    """Share of the target's mass that is spread evenly over all classes."""
    loss: Choice[Loss] = CrossEntropy()
    """What a row costs; the losses are listed at the end."""
    class_weights: Choice[ClassWeights | None] = None
    """What a row's loss is multiplied with, by its class: Balanced, EffectiveNumber or PerClass; from the rows as they are
    drawn, scaled to a mean of 1 over the training set, not over a batch. The head is fitted with them, too. None: all alike."""
    logit_adjustment: NonNegative = 0.0
    """In training, add this times the logarithm of its share to each class's logit (arXiv:2007.07314): 1 makes the model
    answer as if all classes were as frequent. 0: off."""
    r_drop: NonNegative = 0.0
    """Send every row through twice, under other dropout, and add this times the symmetric KL divergence of the two answers
    to the mean of their losses (arXiv:2106.14448). Twice the work. 0: off."""
    mix: Operations[Mixing] = ()
    """Mix the rows of a step with one another, and their labels in the same proportion: one of these is drawn for every
    forward pass. Mixup (of texts, their word embeddings), CutMix, ResizeMix; see `augmentation.mixing`. The training loss in the log is
    that of the mixtures. (): every row by itself."""


@configclass(kw_only=True)
class Distill(Supervised):
    """The loss against the labels, and beside it what the answers of a teacher cost; `--teacher MODEL` alone chooses it."""

    teacher: Annotated[str | tuple[str, ...], Check(_are_names, "one name or several, each once"), flag("--teacher")]
    """Folder of a run or of a classifier, or a Hub id: a bigger or better model of the same classes, by their names. It reads
    the rows through its own tokenizer or processor, at its own length, once: its answers are kept within `batching.cache_gb`
    and found again by later runs. Where `data.augment` makes new views in every epoch, it answers those as the epoch begins,
    which are kept likewise. Also answers from elsewhere (.parquet, .npy, a folder of them; `distillation.precomputed`), or a scikit-learn
    pipeline of texts (.skops). Of several, `--teacher A B`, the mean of their probabilities teaches; its logarithms stand for
    their logits."""
    kinds: Operations[DistillationKind] = (SoftTargets(),)
    """What the student is to have of its teacher, each with a weight: of its answers SoftTargets, HardLabel, MatchLogits,
    DecoupledKD; of its inside HiddenStates, AttentionMaps, AttentionRelations, Embedding, RelationalKD, Contrastive; see
    `distillation.config`. A DeiT has a head for the answers on its distillation token, and answers by both."""
    teacher_precision: Literal["float32", "bf16"] = "float32"
    """Format in which rows are read; in bf16 those whose class could be another there are read again in float32."""
    labels_weight: Weight = 0.5
    """How much the loss against the labels counts, of rows that have one; Ramp(start, end) changes it over the training. 0: the
    teacher alone is asked."""

    @property
    def asks_labels(self) -> bool:
        """Whether the labels count at any time."""
        return any(ends_of(self.labels_weight))

    @property
    def asks_answers(self) -> bool:
        """Whether what the teacher answers counts at any time, and not its inside alone."""
        return any(any(ends_of(kind.weight)) for kind in self.kinds if isinstance(kind, LogitKind))

    @property
    def teachers(self) -> tuple[str, ...]:
        """One name or several."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher


Objective = Supervised | Distill


@configclass
class Regularize:
    """What keeps the weights in bounds."""

    elastic_net: ElasticNet = ElasticNet()
    """Pull chosen weights to exactly 0."""
    mixout: Fraction = 0.0
    """Share of the encoder's weights that are the pretrained ones again in a training step, drawn anew each time
    (arXiv:1909.11299, which puts it in the place of dropout: `model.dropout` 0). For full and top. 0: off."""
    gradient_noise: GradientNoise = GradientNoise()
    """Normal noise on the gradients, the less the later (arXiv:1511.06807)."""


@configclass
class Train:
    """Optimization. Names that TrainingArguments has mean what they mean there."""

    learning_rate: Positive | None = None
    """Peak learning rate. None: 1e-3 for head and lora, of plain LoRA on texts at a width of 768 (2e-3 at 384); on texts
    1e-4 for full, 3e-4 for top; on images 2e-5 for both; 5e-4 under model.from_config; see docs/benchmarks.md. For SGD 100
    times, Adafactor 25 times, Lion a tenth of that. `--find-lr` proposes one."""
    num_train_epochs: Annotated[Positive, flag("--epochs")] = 3.0
    """Passes over the training rows."""
    max_steps: MaxSteps = -1
    """Stop after this many optimizer steps, whatever the epochs. -1: by epochs."""
    per_device_train_batch_size: Count = 32
    """Rows of one forward pass on one device; on a CPU images go through in smaller parts, to the same gradient."""
    per_device_eval_batch_size: Count = 64
    """Rows of one forward pass when nothing is trained."""
    gradient_accumulation_steps: Count = 1
    """Forward passes per optimizer step."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay (SGD's is part of the gradient) of the weights of matrix products, convolutions and embeddings;
    none for biases, norms, layer scales, tokens and position tables that are added."""
    warmup_steps: NonNegative | None = None
    """Steps of linear warm-up; below 1, the share of all steps. None: 0.06; 0 for constant, cyclic and one_cycle."""
    lr_scheduler_type: ScheduleName | None = None
    """Course of the learning rate after the warm-up; its numbers stand in `schedule`. None: linear, with optimizer
    ScheduleFree constant_with_warmup."""
    max_grad_norm: NonNegative = 1.0
    """Gradients are scaled down to this norm when theirs is larger."""
    seed: Annotated[Seed, flag("--seed")] = 0
    """Seed of the head's first weights, the row order and dropout. Never searched over."""
    logging_steps: Count = 10
    """Optimizer steps between two lines of log.jsonl; a loss that is not a number is noticed there."""
    head_warm_start: bool = True
    """Fit the classification layer by logistic regression on the untrained network's features first (arXiv:2202.10054); not
    under model.from_config, whose features are random."""
    head_inverse_strength: Positive | None = None
    """Inverse of that regression's L2 penalty, on standardized features (scikit-learn's C): less keeps the head nearer to 0.
    None: 0.1 for head, which it ends near; 0.01 for all others, which go on from it."""
    head_least_explained: Annotated[float, Le(1)] | None = None
    """The head stays random where a fit explains less than this share of the labels' entropy, on rows that it has not seen:
    it would hold the network to features that say little. 1: random always; -100: fitted always. None: 0.2; for head, whose
    features stay as they are, fitted always."""
    early_stopping_patience: Count | None = None
    """Stop after this many epochs without a better validation metric. None: never."""
    keep_checkpoints: bool = False
    """Keep DIR/checkpoints after success."""
    extra: Annotated[dict[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    """Any further TrainingArguments, passed through as they are; to pretraining, too, but for eval_on_start, eval_delay,
    logging_first_step and report_to."""

    @property
    def checkpoints_activations(self) -> bool:
        """Whether activations are thrown away and computed again for the gradients, by either of the field's names."""
        return any(self.extra.get(name) for name in ("gradient_checkpointing", "activation_checkpointing"))


@configclass
class Batching:
    """How rows become batches."""

    rows_per_step: Count | None = None
    """Rows of one optimizer step over all processes and accumulation, so that the result does not depend on how many
    processes share the work. None: per_device_train_batch_size x gradient_accumulation_steps x processes."""
    by_length: bool = True
    """Put texts of like length into one step: less padding, the same rows an epoch."""
    cache_prefix: bool = True
    """Compute what frozen layers give for every row once, keep it on disk, and run only the layers above in every epoch."""
    cache_gb: Positive = 8.0
    """Gigabytes (10^9 bytes) that such activations, decoded images, their stored copies, texts of language models and a
    teacher's answers may take on disk together, over all runs; the least recently used go first."""
    token_budget: Count | None = None
    """Padded tokens of one optimizer step over all processes and accumulation: short texts then come in large steps, long
    ones in small steps, and per_device_train_batch_size has no effect. Counted of the rows as they are: data.augment in every
    epoch may lengthen some. None: every step has about the same number of rows."""
    unpadded: bool | None = None
    """Lay the texts of a batch end to end, without padding, each attending to itself alone. None: where a flash-attention
    kernel computes it (GPU, half precision, `flash-attn` installed, a family that is known to come out equal); on CPU it is
    exact but 3 to 7 times slower than batches of like length."""
    sampling: Literal["none", "balanced", "square_root"] = "none"
    """Rows of an epoch. balanced: as many of every class; square_root: in the proportion of the roots of their numbers;
    drawn anew each epoch, as many as there are, so rows of rare classes come several times and some of common ones not.
    none: every row once."""


@configclass
class Precision:
    """Number formats."""

    mixed_precision: Annotated[MixedPrecision, flag("--mixed-precision")] = "auto"
    """Format of the training's matrix products; weights stay float32. auto: what `accelerate launch` asked for, else bf16
    where the hardware multiplies it natively, else no; in a run long enough to measure, whichever of these is faster."""
    float32_matmul: Literal["auto", "highest", "high", "medium"] = "auto"
    """How float32 matrix products are computed (`torch.set_float32_matmul_precision`). auto: highest; or medium, where it
    is faster and found to be just as exact on this processor."""
    threads: Count | None = None
    """Threads of a process. None: all that there are; or half of them, where that is measured to be faster."""
    probe: bool = True
    """Time a few real steps before a long run (600 steps or more) and keep what is fastest among number formats, attention
    kernels and thread counts; a choice made once on this machine is used again. False: the defaults, unmeasured."""


@configclass
class Optim:
    """How weights are updated."""

    optimizer: Choice[Optimizer] = AdamW()
    """What updates the weights; the optimizers are listed at the end."""
    head_learning_rate: Positive | None = None
    """Peak learning rate of the head: all that sits on the encoder, and what the checkpoint did not have. None: as the rest."""
    layer_decay: Annotated[float, Interval(gt=0, le=1)] | None = None
    """Factor of the learning rate from each encoder layer to the one below (0.65 to 0.95 are usual): layer k of L, counted
    from 0 at the bottom, learns at the rate times this to the power L - k, the embeddings to the power L + 1. None: one rate."""
    lora_plus_ratio: Positive | None = None
    """LoRA's B matrices learn at so many times the rate (LoRA+, arXiv:2402.12354; the paper takes 16). None: at the rate."""
    word_embeddings: Literal["sparse", "dense", "frozen"] = "sparse"
    """Word embeddings. sparse: the words of the training texts train, by the same update as under dense; the others
    stay as pretrained (with AdamW, and without data.augment in every epoch; else all train). dense: weight decay shrinks
    the others, too. frozen: none trains."""
    sam_rho: NonNegative = 0.0
    """Sharpness-aware minimization: take each step's gradient at this distance up the slope, at twice the cost a step (SAM,
    arXiv:2010.01412): 0.05 is usual, 0.5 to 2 with `sam_adaptive`. 0: off."""
    sam_adaptive: bool = False
    """Measure `sam_rho` relative to the size of each weight (ASAM, arXiv:2102.11600)."""


@configclass
class Averaging:
    """Averages of the weights over the run. Validation decides between each of them and the best epoch's weights; of equals
    the average is kept, and result.json tells them all. Not beside an L1 penalty, whose zeros an average loses."""

    ema_decay: OpenFraction | None = None
    """Keep an exponential moving average of the weights, which keeps this share of itself at each step t: 0.999, or
    (1 + t) / (10 + t) where that is less. It is scored at each validation. None: no such average."""
    tail_share: Probability = 0.0
    """Keep the plain mean of the weights over this share of the optimizer steps, the last ones (SWA, arXiv:1803.05407); made
    for a learning rate that does not fall to 0. 0: no such mean."""
    tail_every: Literal["step", "epoch"] = "step"
    """What `tail_share` averages: the weights after every step of the tail, or after those that end an epoch."""
    soup: bool = False
    """Average the weights of the epochs, best first, each one added unless the validation metric falls by it (greedy soup,
    arXiv:2203.05482). Takes the trained weights once more on disk an epoch."""


@configclass
class Evaluate:
    """Metrics, baselines and the parity gate."""

    metric: Literal["accuracy", "balanced_accuracy", "macro_f1", "matthews_correlation", "log_loss"] = "accuracy"
    """Validation metric that chooses the epoch whose weights are kept."""
    resamples: Annotated[int, Ge(100)] = 1000
    """Bootstrap resamples behind every 95% interval."""
    baselines: bool = True
    """Fit the majority and the linear baseline beside the model."""
    parity_rows: Count = 64
    """Rows whose logits the saved folder must reproduce in a fresh process."""


@configclass
class Hub:
    """Where the result goes."""

    repo_id: Annotated[str | None, flag("--push")] = None
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


@configclass
class Lora:
    """The adapter of method lora, on every linear layer of the encoder (arXiv:2106.09685)."""

    r: Count = 8
    """Rank of the update of each weight matrix."""
    alpha: Positive = 16.0
    """The update is scaled by alpha / r."""
    dropout: Fraction = 0.0
    """Dropout rate on what the adapter reads."""
    variant: Literal["plain", "rslora", "dora", "pissa", "olora"] = "plain"
    """rslora: scaled by alpha / sqrt(r) (arXiv:2312.03732); dora: the length of each row learned apart from its direction
    (arXiv:2402.09353); pissa, olora: begin with the main directions of the pretrained weights in place of none
    (arXiv:2404.02948, arXiv:2406.01775)."""


@configclass
class Recipe:
    """One run, from labelled data to a verified classifier."""

    name: str
    """What the run is called: its folder under runs/, its card's title."""
    data: Choice[TextData | ImageData]
    model: Model
    method: Method = "full"
    """What trains: all weights, LoRA adapters and the head, the top layers and the head, or the head alone. A PEFT config
    in `adapter` decides itself."""
    adapter: Adapter = None
    """A PEFT config of a type in `models.peft.config.PEFT_TYPES`, or its type alone for PEFT's defaults; None with method lora: as `lora` says."""
    lora: Lora = Lora()
    """LoRA by its numbers, where `adapter` gives no PEFT config."""
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
    """Go on with the run in `output`."""
    num_processes: int | None = None
    """Processes to share the work. Default: one, or what `accelerate launch` started."""
