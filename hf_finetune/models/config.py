"""Configuration of the checkpoint and of changes to it before training."""

import re
from typing import Annotated, Any, Literal

import tyro

from hf_finetune.models.surgery.operations import SurgeryStep
from hf_finetune.utils.config import Count, CountOrZero, Fraction, Operations, Positive, configclass, flag
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
class Model:
    """The pretrained checkpoint, and changes to it before training."""

    checkpoint: Annotated[str, flag("--model")]
    """Hub id or folder of a BERT- or ViT-like checkpoint."""
    base_model: Annotated[HubId | None, flag("--base-model")] = None
    """Hub id that the card names as base model when `checkpoint` is a local folder."""
    revision: str | None = None
    """Branch, tag or commit of the checkpoint on the Hub."""
    trust_remote_code: Annotated[bool, flag("--trust-remote-code")] = False
    """Run Python code that comes with the checkpoint. Off: such a checkpoint is refused."""
    from_config: Annotated[dict[str, Any] | None, tyro.conf.Suppress] = None
    """Start from random weights, seeded by `train.seed`. The network has the checkpoint's family and config, with these
    fields changed, such as {num_hidden_layers: 4, hidden_size: 192, num_attention_heads: 3, intermediate_size: 768}; {}
    changes none. The tokenizer or image processor is the checkpoint's; its weights may be missing. None: start from
    the checkpoint's weights."""
    top_layers: CountOrZero = 2
    """With method top: train this many of the highest encoder layers and all above them; freeze the layers below."""
    frozen_layers: CountOrZero = 0
    """Freeze the embeddings and this many of the lowest encoder layers; frozen layers have no dropout. 0: all layers
    train."""
    trainable: Literal["all", "biases", "norms", "attention"] = "all"
    """With method full, which encoder weights train: all; biases (BitFit, arXiv:2106.10199); norms, their scale and
    shift; or attention. The head always trains."""
    trainable_pattern: Pattern | None = None
    """With method full: a regular expression. Weights whose name it matches (`layer\\.(10|11)\\.`) train, and the head.
    None: use `trainable`."""
    unfreeze_every: Positive | None = None
    """With method full or top: train only the head at first, and unfreeze one more layer, from the top down, every so
    many epochs (0.5: two an epoch), the embeddings last (arXiv:1801.06146). None: train all from the start."""
    pooling: Literal["default", "cls", "mean", "max", "attention"] = "default"
    """What the head reads from the last hidden states: the first token (cls), their mean or maximum without padding, or
    a learned weighted mean (attention). For images, all but cls read the patches. default: as the family's own class. A
    model that no stock class can express is saved as encoder/ and head.safetensors instead of model/."""
    last_layers: Count = 1
    """Concatenate the hidden states of this many of the highest layers before pooling."""
    head: Literal["default", "linear", "mlp"] = "default"
    """linear: one layer on the pooled state. mlp: a hidden layer before it. default: the head of the family's own class
    if it has this pooling (BERT on cls: a hidden layer with tanh), else linear."""
    head_width: Count | None = None
    """Width of the hidden layer of an mlp head. None: the width of the pooled state."""
    head_activation: Literal["tanh", "gelu", "relu"] | None = None
    """Activation of the hidden layer of an mlp head. None: the one of the family's own head (BERT: tanh), else gelu."""
    dropout: Fraction | None = None
    """Rate of every dropout of the network, stochastic depth included. None: the rates of the checkpoint's config."""
    patch_drop: Fraction = 0.0
    """Share of every image's patches that a training step drops at random (PatchDropout, arXiv:2208.07220): half of the
    patches cost half. For vit, deit and dinov2. Evaluation uses all patches."""
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
    """Attention kernel. None: on CPU eager, whose backward pass is faster for short texts, or sdpa if `precision.probe`
    measures that it is faster; on GPU the library's choice."""
    surgery: Operations[SurgeryStep] = ()
    """Operations on the loaded checkpoint, in order: keep, drop, copy, add or reinitialize layers; change activations,
    dropout rates, widths, patch and kernel sizes, pooling, positions. See `models.surgery.operations`. The result loads
    with plain transformers. Operations that a family's config cannot express are refused before weights are loaded."""

    @property
    def has_custom_head(self) -> bool:
        """Whether pooling or head differ from the family's own class."""
        return (self.pooling, self.last_layers, self.head) != ("default", 1, "default")
