"""The types that describe a checkpoint family; the families themselves are listed in `models.families`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PoolingKind = Literal["cls", "mean", "max", "attention"]
TokenNetworkKind = Literal["gru", "lstm", "convolution"]


@dataclass(frozen=True)
class StockHead:
    """The head of a family's own classification class."""

    pooling: PoolingKind | None
    """None: the head reads several poolings at once (DINOv2: CLS and the mean, concatenated)."""
    kind: Literal["linear", "mlp", "other"]
    activation: str | None = None
    """Activation of the hidden layer of an mlp."""
    dense: str = ""
    """Module name of the hidden layer of an mlp."""
    out: str = "classifier"
    """Module name of the layer that outputs the logits."""
    switch: Literal["classifier_pooling", "use_mean_pooling"] | None = None
    """Config field that chooses between cls and mean; `use_mean_pooling` also moves the final norm (BEiT)."""


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward network of a layer. Module names are relative to the layer."""

    up: str
    """Linear layer or 1x1 convolution from the hidden states to the neurons."""
    down: str
    """Linear layer or 1x1 convolution from the neurons to the hidden states."""
    width: str = "intermediate_size"
    """Config field of the number of neurons, or of its ratio to the hidden size (`mlp_ratio`)."""
    gates: int = 1
    """Rows of `up` per neuron: 2 for gated units."""


@dataclass(frozen=True)
class FusedParts:
    """Modules of a BERT-like layer, besides those in `Family`, that `kernels.layers` computes as one function."""

    attention: str
    """Module with the config, the projections and the dropout of the attention."""
    activation: str
    out_dropout: str | None
    """Dropout on the attention output; None: the family has none."""
    down_dropout: str
    """Dropout on the feed-forward output."""


@dataclass(frozen=True)
class Images:
    """How an image family reads an image."""

    patches: bool = False
    """Whether `patch_size` cuts the image into patches, so that surgery can change it."""
    tokens_before: int | None = None
    """Tokens before a flat grid of patches (CLS, DeiT's distillation token); None: there is no flat grid."""
    antialias: bool = False
    """Whether the family interpolates positions to a smaller grid with antialiasing."""
    any_size: bool = False
    """Whether the family takes images of another size without surgery. False for Swin: it adapts its windows to the
    first small image, and then fails on large ones."""
    mask_token: bool = False
    """Whether the embeddings take `bool_masked_pos`, and transformers has a head that predicts the masked pixels."""
    on_request: bool = False
    """Whether the embeddings interpolate positions only with `interpolate_pos_encoding=True`."""


@dataclass(frozen=True)
class Family:
    """Facts about a checkpoint family. Module names are relative to the encoder or to a layer."""

    layers: str = ""
    """Name of a layer relative to the encoder; `{}` stands for its number, or for its stage and its number there."""
    outputs: tuple[str, ...] | Callable[[PreTrainedConfig], tuple[str, ...]] = ()
    """Modules that write to the residual stream (linear layers, norms, layer scales): with zero weights in them, a
    layer returns its input. The first is the attention output, if there is attention."""
    feed_forward: FeedForward | None = None
    """None: no config field sets its width."""
    norms: tuple[str, ...] = ()
    """LayerNorms after each residual addition (post-norm); empty for pre-norm families."""
    activation: str = "hidden_act"
    """Config field of the feed-forward activation."""
    dropout: Mapping[str, str] = field(default_factory=dict)
    """Config field of the dropout rate by site."""
    graded_dropout: str | None = None
    """Dropout whose rate grows with depth, from 0 to the config's rate; None: all layers have the config's rate."""
    drop_path: Literal["linear", "constant"] | None = None
    """How the rate of stochastic depth grows over the layers; None: the config has no `drop_path_rate`."""
    shared: bool = False
    """Whether all layers share one set of weights (ALBERT)."""
    depths: Literal["num_hidden_layers", "depths", "num_block_repeats"] = "num_hidden_layers"
    """Config field of the number of layers, or of the list of numbers by stage."""
    first_changes_shape: bool = False
    """Whether the first layer of a stage changes width and resolution, so that no other layer can replace it."""
    stage_entries: str | None = None
    """List of the modules that downsample before each stage, if these are not part of a layer."""
    after_layers: tuple[str, ...] = ()
    """Modules after the last layer that share a parent with the layers."""
    alternates: bool = False
    """Whether a layer's position decides what it computes: windows, then shifted windows."""
    first_differs: bool = False
    """Whether layer 0 has no first norm, unlike all others."""
    identity_requires: Mapping[str, Any] = field(default_factory=dict)
    """Config fields and the values that a layer needs to be able to return its input."""
    attention: Literal["plain", "biased"] | None = None
    """Whether query, key and value are separate layers. plain: softmax of their products; biased: position biases are
    added before the softmax; None: not separate, or no attention."""
    projections: tuple[str, str, str] = ("query", "key", "value")
    """Names of these three layers in the attention module, unless `attention` is None."""
    fused: FusedParts | None = None
    """Modules of a layer that can be computed as one function."""
    tokenwise_from: str | None = None
    """Module of a layer from which on tokens are independent of each other; set only if the stock head reads CLS."""
    packable: bool = False
    """Whether sequences packed into one row give the logits and gradients of padded ones."""
    first_position: Callable[[PreTrainedConfig], int] | None = None
    """Row of the position table that the first token uses; None: there is no table."""
    hidden_size: str = "hidden_size"
    """Config field of the width of the last hidden states, unless the config has `hidden_sizes`."""
    projects_embeddings: bool = False
    """Whether a projection connects embeddings and encoder if, and only if, their widths differ."""
    pretrained_pooler: bool = False
    """Whether the encoder has a pooler that comes from pretraining."""
    norm_after_pooling: str | None = None
    """Norm in the encoder that only the stock head's pooled vector passes."""
    distillation_token: bool = False
    """Whether transformers has a class of the family with a second head, which learns from a teacher (DeiT)."""
    head: StockHead | Callable[[PreTrainedConfig], StockHead] | None = None
    """Head of the stock class; None: it is not known how it pools."""
    images: Images | None = None
    """None for text families."""

    @property
    def staged(self) -> bool:
        """Whether the layers form stages of different width and resolution."""
        return self.depths != "num_hidden_layers"

    @property
    def one_width(self) -> bool:
        """Whether the layers have their own weights and all the same width."""
        return not self.staged and not self.shared

    @property
    def patch_grid(self) -> bool:
        """Whether an image becomes one flat grid of patches."""
        return self.images is not None and self.images.tokens_before is not None
