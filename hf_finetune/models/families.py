"""What the package must know of each checkpoint family.

Supporting another family is one more entry in `FAMILIES`, a tiny config of it in tests/helpers/tiny.py, and its name in
tests/models/surgery/test_operations.py, which operates on it, saves it and loads it again with plain transformers.
Weights of other families are fine-tuned too; what needs one of these facts is then refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PoolingKind = Literal["cls", "mean", "max", "attention"]

# How families name the projections of an attention block.
QUERY_KEY_VALUE = (
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("q_proj", "k_proj", "v_proj"),
    ("q", "k", "v"),
)


@dataclass(frozen=True)
class StockHead:
    """The head of a family's own classification class."""

    pooling: PoolingKind | None
    """None: it reads several at once (DINOv2: CLS and the mean side by side)."""
    kind: Literal["linear", "mlp", "other"]
    activation: str | None = None
    """Of the hidden layer of an mlp."""
    dense: str = ""
    """Name of that layer in the class."""
    out: str = "classifier"
    """Name of the layer that gives the logits."""
    switch: Literal["classifier_pooling", "use_mean_pooling"] | None = None
    """Config field that chooses between cls and mean; the second also moves the norm (BEiT)."""


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward network of a layer; module names are relative to the layer."""

    up: str
    """Linear layer, or convolution of single pixels, into the hidden neurons."""
    down: str
    """The same out of them."""
    width: str = "intermediate_size"
    """Config field of the width, or of its ratio to the layer's (`mlp_ratio`)."""
    gates: int = 1
    """Rows of `up` a neuron: 2 for gated units."""


@dataclass(frozen=True)
class FusedParts:
    """Modules of a BERT-like layer that `kernels.layers` computes as one function, beside those that `Family` names."""

    attention: str
    """Holds the config, the projections and the attention's dropout."""
    projections: tuple[str, str, str]
    """Query, key and value within `attention`."""
    activation: str
    out_dropout: str | None
    """Dropout of the attention's output; None: there is none."""
    down_dropout: str
    """Dropout of the feed-forward network's output."""


@dataclass(frozen=True)
class Images:
    """What an image family reads."""

    patches: bool = False
    """Whether `patch_size` cuts the image, so that it can be changed."""
    tokens_before: int | None = None
    """Positions of tokens before a flat grid of patches (CLS, DeiT's distillation token); None: there is no grid."""
    antialias: bool = False
    """Whether the family smooths a grid of positions that it makes smaller."""
    any_size: bool = False
    """Whether it takes images of another size as it is. Not Swin: it fits its windows to the first small image that it
    meets, and is of no use for a large one after."""
    on_request: bool = False
    """Whether the embeddings interpolate positions only on request."""


@dataclass(frozen=True)
class Family:
    """Where a family has what is changed, read or exchanged. Module names are relative to the encoder or to a layer."""

    layers: str
    """Name of a layer inside the encoder, `{}` for its number, or for those of its stage and of the layer in it."""
    outputs: tuple[str, ...]
    """What gives the values that are added to the layer's input (linear layers, norms, scales): with zeros in it, the
    layer adds nothing. The first is the attention's where there is attention."""
    feed_forward: FeedForward | None = None
    """None where no config field says how wide it is."""
    norms: tuple[str, ...] = ()
    """LayerNorms after each addition; empty where norms come before (the residual stream is never normalized)."""
    activation: str = "hidden_act"
    """Config field of the feed-forward's activation."""
    dropout: Mapping[str, str] = field(default_factory=dict)
    """Config field of the dropout rate by site; a site that is missing cannot be set."""
    graded_dropout: str | None = None
    """Dropout whose rate grows with depth from 0 to the config's; None: all have the config's."""
    drop_path: Literal["linear", "constant"] | None = None
    """How the family spreads its config's `drop_path_rate` over the layers; None: it has no such field."""
    shared: bool = False
    """One set of weights for all layers (ALBERT)."""
    depths: Literal["num_hidden_layers", "depths", "num_block_repeats"] = "num_hidden_layers"
    """Config field of the number of layers, or of a list of the numbers that the stages have."""
    leads: bool = False
    """Whether the first layer of each stage is the way into it, with other shapes than those behind it."""
    stage_entries: str | None = None
    """Modules that lead into each stage from the one below, where these are not part of a layer."""
    above: tuple[str, ...] = ()
    """Modules that follow the layers inside the module that holds them."""
    alternating: bool = False
    """Whether a layer's place decides what it does: windows, shifted windows."""
    first_differs: bool = False
    """Whether the first layer is built without its first norm, and only the first."""
    silent_if: Mapping[str, Any] = field(default_factory=dict)
    """Config fields with the values under which a layer can pass on what it gets."""
    attention: Literal["plain", "biased"] | None = None
    """Separate query, key and value. plain: softmax of query times key; biased: positions are added to the scores."""
    fused: FusedParts | None = None
    """Modules of a layer that can be computed as one function; None: it cannot."""
    tokenwise_from: str | None = None
    """Module of a layer from which on each token is computed by itself, where the stock head reads the first one."""
    packable: bool = False
    """Whether rows packed into one long row give the logits and gradients of padded ones."""
    first_position: Callable[[PreTrainedConfig], int] | None = None
    """Row of the position table that a text's first token takes; None: there is no table."""
    hidden_size: str = "hidden_size"
    """Config field of the width of the last hidden states, in families without `hidden_sizes`."""
    projects_embeddings: bool = False
    """Whether a layer stands between embeddings and encoder just where they differ in width."""
    pretrained_pooler: bool = False
    """Whether the encoder's pooler comes from pretraining."""
    norm_after_pooling: str | None = None
    """Norm of the encoder that only the stock head's pooled vector goes through."""
    head: StockHead | Callable[[PreTrainedConfig], StockHead] | None = None
    """The stock class's head; None: it is not known how its hidden states pool."""
    images: Images | None = None
    """None for text families."""

    @property
    def staged(self) -> bool:
        """Whether layers come in stages, each of another width and resolution."""
        return self.depths != "num_hidden_layers"

    @property
    def one_width(self) -> bool:
        """Whether layers with weights of their own follow one another, all of one width."""
        return not self.staged and not self.shared

    @property
    def patch_grid(self) -> bool:
        """Whether an image becomes one flat grid of patches."""
        return self.images is not None and self.images.tokens_before is not None


def _tanh_mlp(dense: str, out: str = "classifier") -> StockHead:
    return StockHead("cls", "mlp", "tanh", dense, out)


_HIDDEN_ATTENTION = {"hidden": "hidden_dropout_prob", "attention": "attention_probs_dropout_prob"}
_BERT = Family(
    layers="encoder.layer.{}",
    outputs=("attention.output.dense", "output.dense"),
    feed_forward=FeedForward("intermediate.dense", "output.dense"),
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    dropout=_HIDDEN_ATTENTION | {"classifier": "classifier_dropout"},
    attention="plain",
    fused=FusedParts(
        "attention.self",
        ("query", "key", "value"),
        "intermediate.intermediate_act_fn",
        "attention.output.dropout",
        "output.dropout",
    ),
    tokenwise_from="attention.output",
    packable=True,
    first_position=lambda config: 0,
    pretrained_pooler=True,
    head=_tanh_mlp("bert.pooler.dense"),
)
_ROBERTA = replace(
    _BERT,
    pretrained_pooler=False,
    first_position=lambda config: config.pad_token_id + 1,
    head=_tanh_mlp("classifier.dense", "classifier.out_proj"),
)
_VIT = Family(
    layers="layers.{}",
    outputs=("attention.o_proj", "mlp.fc2"),
    feed_forward=FeedForward("mlp.fc1", "mlp.fc2"),
    dropout=_HIDDEN_ATTENTION,
    attention="plain",
    head=StockHead("cls", "linear"),
    images=Images(patches=True, tokens_before=1, any_size=True, on_request=True),
)
_DINOV2 = Family(
    layers="encoder.layer.{}",
    # The last one is of its SwiGLU units, which the giant has.
    outputs=("attention.o_proj", "mlp.fc2", "mlp.down_proj"),
    feed_forward=FeedForward("mlp.fc1", "mlp.fc2", "mlp_ratio"),
    # Its layers have no dropout on what they add; the field of that name governs the embeddings alone.
    dropout={"embeddings": "hidden_dropout_prob", "attention": "attention_probs_dropout_prob"},
    drop_path="constant",
    attention="plain",
    head=StockHead(None, "linear"),
    images=Images(patches=True, tokens_before=1, any_size=True),
)
# Its feed-forward network is 4 times as wide as the layer, whatever the config has.
_CONVNEXT = Family(
    layers="encoder.stages.{}.layers.{}",
    outputs=("pwconv2",),
    drop_path="linear",
    depths="depths",
    norm_after_pooling="layernorm",
    head=StockHead("mean", "linear"),
    images=Images(patches=True, any_size=True),
)

FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": replace(_ROBERTA, packable=False),
    "camembert": replace(_ROBERTA, packable=False),
    "electra": replace(
        _BERT,
        pretrained_pooler=False,
        projects_embeddings=True,
        head=StockHead("cls", "mlp", "gelu", "classifier.dense", "classifier.out_proj"),
    ),
    "deberta-v2": replace(
        _BERT,
        dropout=_HIDDEN_ATTENTION | {"classifier": "cls_dropout"},
        attention=None,
        fused=None,
        packable=False,
        pretrained_pooler=False,
        head=lambda config: StockHead("cls", "mlp", config.pooler_hidden_act, "pooler.dense"),
    ),
    "mpnet": Family(
        layers="encoder.layer.{}",
        outputs=("attention.attn.o", "output.dense"),
        feed_forward=FeedForward("intermediate.dense", "output.dense"),
        norms=("attention.LayerNorm", "output.LayerNorm"),
        dropout=_HIDDEN_ATTENTION,
        attention="biased",
        tokenwise_from="attention.LayerNorm",
        # It takes the padding token's id to be 1, whatever its config has.
        first_position=lambda config: 2,
        head=_tanh_mlp("classifier.dense", "classifier.out_proj"),
    ),
    "distilbert": Family(
        layers="transformer.layer.{}",
        outputs=("attention.out_lin", "ffn.lin2"),
        feed_forward=FeedForward("ffn.lin1", "ffn.lin2", "hidden_dim"),
        norms=("sa_layer_norm", "output_layer_norm"),
        activation="activation",
        dropout={"hidden": "dropout", "attention": "attention_dropout", "classifier": "seq_classif_dropout"},
        attention="plain",
        fused=FusedParts("attention", ("q_lin", "k_lin", "v_lin"), "ffn.activation", None, "ffn.dropout"),
        tokenwise_from="sa_layer_norm",
        packable=True,
        first_position=lambda config: 0,
        head=StockHead("cls", "mlp", "relu", "pre_classifier"),
    ),
    "albert": Family(
        layers="encoder.albert_layer_groups.{}.albert_layers.{}",
        outputs=("attention.dense", "ffn_output"),
        feed_forward=FeedForward("ffn", "ffn_output"),
        norms=("attention.LayerNorm", "full_layer_layer_norm"),
        dropout=_HIDDEN_ATTENTION | {"classifier": "classifier_dropout_prob"},
        shared=True,
        attention="plain",
        first_position=lambda config: 0,
        head=_tanh_mlp("albert.pooler"),
    ),
    "modernbert": Family(
        layers="layers.{}",
        outputs=("attn.Wo", "mlp.Wo"),
        feed_forward=FeedForward("mlp.Wi", "mlp.Wo", gates=2),
        activation="hidden_activation",
        dropout={
            "hidden": "mlp_dropout",
            "attention": "attention_dropout",
            "embeddings": "embedding_dropout",
            "classifier": "classifier_dropout",
        },
        first_differs=True,
        packable=True,
        head=lambda config: StockHead(config.classifier_pooling, "other", switch="classifier_pooling"),
    ),
    "vit": _VIT,
    "deit": replace(_VIT, images=Images(patches=True, tokens_before=2, any_size=True, on_request=True)),
    "beit": replace(
        _VIT,
        drop_path="linear",
        attention="biased",
        head=lambda config: StockHead(
            "mean" if config.use_mean_pooling else "cls", "linear", switch="use_mean_pooling"
        ),
        images=Images(patches=True, tokens_before=1, any_size=True),
    ),
    "dinov2": _DINOV2,
    "dinov2_with_registers": replace(
        _DINOV2, images=Images(patches=True, tokens_before=1, antialias=True, any_size=True)
    ),
    "swin": Family(
        layers="encoder.layers.{}.blocks.{}",
        outputs=("attention.o_proj", "mlp.fc2"),
        feed_forward=FeedForward("mlp.fc1", "mlp.fc2", "mlp_ratio"),
        dropout=_HIDDEN_ATTENTION,
        drop_path="linear",
        depths="depths",
        alternating=True,
        attention="biased",
        head=StockHead("mean", "linear"),
        images=Images(),
    ),
    "convnext": _CONVNEXT,
    "convnextv2": _CONVNEXT,
    "resnet": Family(
        layers="encoder.stages.{}.layers.{}",
        # Of its bottleneck layers; `family_of` tells that of the basic ones.
        outputs=("layer.2.normalization",),
        depths="depths",
        leads=True,
        # What another activation behind each layer lets through is not what the layer got.
        silent_if={"hidden_act": "relu"},
        head=StockHead("mean", "linear"),
        images=Images(any_size=True),
    ),
    "efficientnet": Family(
        layers="encoder.blocks.{}",
        outputs=("projection.project_bn",),
        # What its config calls drop connect is dropout of single features in transformers.
        dropout={"hidden": "drop_connect_rate", "classifier": "dropout_rate"},
        graded_dropout="projection.dropout",
        depths="num_block_repeats",
        leads=True,
        above=("encoder.top_conv", "encoder.top_bn"),
        # Of the convolution behind its layers.
        hidden_size="hidden_dim",
        head=lambda config: StockHead(config.pooling_type, "linear"),
        images=Images(),
    ),
    "poolformer": Family(
        layers="encoder.block.{}.{}",
        outputs=("layer_scale_1", "output.conv2"),
        feed_forward=FeedForward("output.conv1", "output.conv2", "mlp_ratio"),
        drop_path="linear",
        depths="depths",
        stage_entries="encoder.patch_embeddings",
        # Without layer scales its pooling cannot be silent.
        silent_if={"use_layer_scale": True},
        images=Images(),
    ),
}


def names_where(condition: Callable[[Family], object]) -> tuple[str, ...]:
    """Names of the families for which a condition holds."""
    return tuple(name for name, family in FAMILIES.items() if condition(family))


def family_of(config: PreTrainedConfig) -> Family | None:
    """The family of a checkpoint; None where it is not known here."""
    family = FAMILIES.get(config.model_type)
    if config.model_type == "resnet" and family is not None and config.layer_type == "basic":
        return replace(family, outputs=("layer.1.normalization",))
    return family


def depths_of(config: PreTrainedConfig, family: Family) -> list[int]:
    """Number of layers of each stage; one stage in families without."""
    depths = getattr(config, family.depths)
    if not family.staged:
        return [depths]
    # EfficientNet multiplies what its config lists.
    factor = config.to_dict().get("depth_coefficient", 1)
    return [math.ceil(factor * depth) for depth in depths]


def depth_of(config: PreTrainedConfig, family: Family) -> int:
    """Number of layers, over all stages."""
    return sum(depths_of(config, family))


def stage_widths(config: PreTrainedConfig) -> list[int]:
    """Width of each stage in a family with stages: listed, or in Swin doubled from one to the next."""
    listed = config.to_dict().get("hidden_sizes")
    return listed or [config.embed_dim * 2**stage for stage in range(len(config.depths))]


def width_of(config: PreTrainedConfig) -> int:
    """Features of the last hidden states."""
    listed = config.to_dict().get("hidden_sizes")
    if listed:
        return listed[-1]
    family = family_of(config)
    return getattr(config, family.hidden_size if family else "hidden_size")


def tokens_before_patches(config: PreTrainedConfig) -> int:
    """Tokens of an image that are no patch: CLS, DeiT's second one, registers. 0 without a flat grid of patches."""
    family = family_of(config)
    if family is None or family.images is None or family.images.tokens_before is None:
        return 0
    return family.images.tokens_before + config.to_dict().get("num_register_tokens", 0)


def stock_head(config: PreTrainedConfig) -> StockHead | None:
    """What the family's classification class reads; None for families not known here."""
    family = family_of(config)
    head = None if family is None else family.head
    return head(config) if callable(head) else head
