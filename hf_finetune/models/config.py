"""Configuration of the checkpoint and of changes to it before training."""

import re
from dataclasses import fields
from typing import Annotated, Any, Literal

import tyro

from hf_finetune.models.family import TokenNetworkKind
from hf_finetune.models.own_tokenizers import AnyTokenizer
from hf_finetune.models.surgery.operations import SurgeryStep
from hf_finetune.utils.config import Choice, Count, CountOrZero, Fraction, Operations, Positive, configclass, flag
from hf_finetune.utils.config_errors import Check


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


HubId = Annotated[
    str, Check(re.compile(r"[\w.-]+(/[\w.-]+)?").fullmatch, "a Hub id like google-bert/bert-base-uncased")
]
Pattern = Annotated[str, Check(_is_pattern, "a regular expression")]


@configclass
class Pretrained:
    """Where the checkpoint is."""

    checkpoint: Annotated[str, flag("--model")]
    """Hub id or folder of a BERT- or ViT-like checkpoint."""
    base_model: Annotated[HubId | None, flag("--base-model")] = None
    """Hub id that the card names as base model when `checkpoint` is a local folder."""
    revision: str | None = None
    """Branch, tag or commit of the checkpoint on the Hub."""
    trust_remote_code: Annotated[bool, flag("--trust-remote-code")] = False
    """Run Python code that comes with the checkpoint. Off: such a checkpoint is refused."""


@configclass
class CheckpointLimits:
    """Limits on checkpoints that others made: what is beyond them is refused before it takes time or memory."""

    max_layers: Count = 1000
    """Refuse a checkpoint or a `from_config` with more layers than this, before it is built."""
    max_parameters: Count = 500_000_000
    """Refuse a `from_config` whose encoder has more weights than this, before it is built."""
    max_tensors: Count = 100_000
    """Refuse files of weights with more tensors than this."""
    max_classes: Count = 100_000
    """Refuse a checkpoint whose config has more classes than this."""
    max_image_side: Count = 1024
    """Refuse a checkpoint whose image processor makes images of more pixels a side than this."""
    max_added_tokens: Count = 10_000
    """Refuse a tokenizer that adds more tokens than this to its vocabulary, one by one."""
    max_token_growth: Count = 100
    """Refuse a tokenizer that makes more characters or tokens than this of one character, or puts more special tokens
    than this around a text."""

    def raised_to(self, other: "CheckpointLimits") -> "CheckpointLimits":
        """Return these limits, and of the others what is higher than these and the defaults."""
        raised = {}
        for field in fields(CheckpointLimits):
            own, theirs = getattr(self, field.name), getattr(other, field.name)
            raised[field.name] = max(own, theirs) if theirs > field.default else own
        return CheckpointLimits(**raised)


CHECKPOINT_LIMITS = CheckpointLimits()


@configclass
class Model(CheckpointLimits, Pretrained):
    """The pretrained checkpoint, limits on it, and changes to it before training."""

    from_config: Annotated[dict[str, Any] | None, tyro.conf.Suppress] = None
    """Start from random weights, seeded by `train.seed`. The network has the checkpoint's family, and its config with
    these fields changed: {num_hidden_layers: 4, hidden_size: 192, num_attention_heads: 3, intermediate_size: 768}. {}
    changes none. The tokenizer or image processor is the checkpoint's, unless `tokenizer` is set. The checkpoint's
    weights may be missing. None: start from the checkpoint's weights."""
    tokenizer: Choice[AnyTokenizer | None] = None
    """Tokenizer for sequences (data.sequence), built from the training rows: CharacterTokenizer, KmerTokenizer or
    BpeTokenizer. Only with from_config; `checkpoint` may then be the name of a family, such as bert or esm. None: the
    tokenizer of the checkpoint."""
    top_layers: CountOrZero = 2
    """With method top: train this many of the highest encoder layers, and all above them. The layers below are
    frozen."""
    frozen_layers: CountOrZero = 0
    """Freeze the embeddings and this many of the lowest encoder layers. Frozen layers have no dropout. 0: all layers
    train."""
    trainable: Literal["all", "biases", "norms", "attention"] = "all"
    """Encoder weights that train with method full. all: all of them. biases: only these (BitFit, arXiv:2106.10199).
    norms: scale and shift of the norms. attention: the attention layers. The head always trains."""
    trainable_pattern: Pattern | None = None
    """With method full: train only the weights whose name matches this regular expression, and the head. Such as
    `layer\\.(10|11)\\.`. None: use `trainable`."""
    unfreeze_every: Positive | None = None
    """Gradual unfreezing with method full or top (arXiv:1801.06146). Only the head trains at first. Every so many
    epochs one more layer is unfrozen, from the top down, and the embeddings last. 0.5: two layers an epoch. None: train
    all from the start."""
    pooling: Literal["auto", "default", "cls", "mean", "max", "attention"] = "auto"
    """What the head reads from the last hidden states. cls: the first token. mean, max: over all tokens without
    padding. attention: a learned weighted mean. For images, all but cls read the patches. default: as in the family's
    own class. A model that no stock class can express is saved as encoder/ and head.safetensors instead of model/.
    auto: for texts the mean where heads on frozen features, cross-validated on training examples, show that it is
    better than default, and for sentence encoders where it is no worse, if a stock class can read it and no adapter
    trains; see GatherMean in `surgery`. Else default. With method head also the layer whose mean says most: those above
    are dropped, see KeepLayers."""
    last_layers: Count = 1
    """Concatenate the hidden states of this many of the highest layers before pooling."""
    head: Literal["default", "linear", "mlp", "gru", "lstm", "convolution"] = "default"
    """linear: one layer on the pooled state. mlp: a hidden layer before it. gru, lstm: a bidirectional recurrent layer
    reads a text's hidden states before they are pooled. convolution: filters over three tokens do. Of both, the maximum
    over the tokens is pooled, unless `pooling` names another way. default: the head of the family's own class if it has
    this pooling, else linear. BERT's own head on cls has a hidden layer with tanh."""
    head_width: Count | None = None
    """Width of the hidden layer of an mlp head. Of a gru or lstm: of each direction. Of a convolution: number of
    filters. None: the width of the hidden states, and half of it for each direction."""
    head_activation: Literal["tanh", "gelu", "relu"] | None = None
    """Activation of the hidden layer of an mlp head. None: that of the family's own head (BERT: tanh), else gelu."""
    dropout: Fraction | None = None
    """Rate of every dropout of the network, stochastic depth included. None: the rates of the checkpoint's config."""
    patch_drop: Fraction = 0.0
    """PatchDropout (arXiv:2208.07220): share of every image's patches that a training step drops at random. Half of the
    patches cost half the time. Evaluation uses all patches. For vit, deit and dinov2. Experimental: its effect on
    quality was measured on single seeds or not at all (docs/limits.md)."""
    fast_dropout: bool = True
    """On CPU, draw one dropout mask per forward pass and give every dropout layer a slice of it. Not with activation
    checkpointing."""
    fused_layers: bool = True
    """On CPU, compute each layer of BERT, RoBERTa, ELECTRA and DistilBERT as one function. Same numbers up to
    rounding."""
    fused_projections: bool = True
    """On CPU, train attention's query, key and value as one matrix product: a little faster, the same numbers up to
    rounding."""
    narrow_last_layer: bool = True
    """Compute the last layer for the first token only if the head reads no other token: same logits, less work."""
    attn_implementation: Literal["eager", "sdpa"] | None = None
    """Attention kernel. None: on GPU the library's choice. On CPU eager, whose backward pass is faster for short texts,
    or sdpa if `precision.probe` measures that it is faster."""
    surgery: Operations[SurgeryStep] = ()
    """Operations on the loaded checkpoint, in order. Layers can be kept, dropped, copied, added or reinitialized.
    Activations, dropout rates, widths, patch and kernel sizes, pooling and positions can be changed. See
    `models.surgery.operations`. The result loads with plain transformers. Operations that a family's config cannot
    express are refused before weights are loaded."""

    @property
    def has_custom_head(self) -> bool:
        """Whether pooling or head differ from the family's own class."""
        return (self.named_pooling, self.last_layers, self.head) != ("default", 1, "default")

    @property
    def token_network(self) -> TokenNetworkKind | None:
        """The network that reads the hidden states before they are pooled."""
        match self.head:
            case "gru" | "lstm" | "convolution":
                return self.head
            case _:
                return None

    @property
    def named_pooling(self) -> Literal["default", "cls", "mean", "max", "attention"]:
        """The pooling, where auto is the default until it is chosen."""
        return "default" if self.pooling == "auto" else self.pooling
