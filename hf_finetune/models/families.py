"""What surgery must know of each family: the names of its layers, their parts, and the config fields that say them.

A family is here when a test operates on it, saves it and loads it again with plain transformers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from hf_finetune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Family:
    """Where a family keeps what surgery changes. Module names are relative to one layer."""

    layers: str
    """Name of a layer inside the encoder, `{}` for its number, or for those of its stage and of the layer in it."""
    outputs: tuple[str, ...]
    """What gives the values that are added to the layer's input (linear layers, norms, scales): with zeros in it, the
    layer adds nothing."""
    up: str | None
    """Linear layer, or convolution of single pixels, into the feed-forward's hidden neurons; None where no config field
    says how many there are."""
    down: str | None
    """The same out of them."""
    width: str = "intermediate_size"
    """Config field of the feed-forward's width, or of its ratio to the layer's (`mlp_ratio`)."""
    gates: int = 1
    """Rows of `up` a neuron: 2 for gated units."""
    norms: tuple[str, ...] = ()
    """LayerNorms after each addition; empty where norms come before (the residual stream is never normalised)."""
    activation: str = "hidden_act"
    """Config field of the feed-forward's activation."""
    dropout: Mapping[str, str] = field(default_factory=dict)
    """Config field of the dropout rate by site; a site that is missing cannot be said."""
    drop_path: Literal["linear", "constant"] | None = None
    """How the family spreads its config's `drop_path_rate` over the layers; None: it has no such field."""
    shared: bool = False
    """One set of weights for all layers (ALBERT)."""
    depths: Literal["num_hidden_layers", "depths", "num_block_repeats"] = "num_hidden_layers"
    """Config field of the number of layers, or of a list of the numbers that the stages have."""
    leads: bool = False
    """Whether the first layer of each stage is the way into it, with other shapes than those behind it."""

    @property
    def staged(self) -> bool:
        """Whether layers come in stages, each of another width and resolution."""
        return self.depths != "num_hidden_layers"


_HIDDEN_ATTENTION = {"hidden": "hidden_dropout_prob", "attention": "attention_probs_dropout_prob"}
_BERT = Family(
    layers="encoder.layer.{}",
    outputs=("attention.output.dense", "output.dense"),
    up="intermediate.dense",
    down="output.dense",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    dropout=_HIDDEN_ATTENTION | {"classifier": "classifier_dropout"},
)
_VIT = Family(
    layers="layers.{}",
    outputs=("attention.o_proj", "mlp.fc2"),
    up="mlp.fc1",
    down="mlp.fc2",
    dropout=_HIDDEN_ATTENTION,
)
_DINOV2 = Family(
    layers="encoder.layer.{}",
    # The last one is of its SwiGLU units, which the giant has.
    outputs=("attention.o_proj", "mlp.fc2", "mlp.down_proj"),
    up="mlp.fc1",
    down="mlp.fc2",
    width="mlp_ratio",
    # Its layers have no dropout on what they add; the field of that name governs the embeddings alone.
    dropout={"embeddings": "hidden_dropout_prob", "attention": "attention_probs_dropout_prob"},
    drop_path="constant",
)
_CONVNEXT = Family(
    layers="encoder.stages.{}.layers.{}",
    outputs=("pwconv2",),
    # Its feed-forward is 4 times as wide as the layer, whatever the config says.
    up=None,
    down=None,
    drop_path="linear",
    depths="depths",
)

FAMILIES: Mapping[str, Family] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), _BERT),
    "deberta-v2": replace(_BERT, dropout=_HIDDEN_ATTENTION | {"classifier": "cls_dropout"}),
    "mpnet": Family(
        layers="encoder.layer.{}",
        outputs=("attention.attn.o", "output.dense"),
        up="intermediate.dense",
        down="output.dense",
        norms=("attention.LayerNorm", "output.LayerNorm"),
        dropout=_HIDDEN_ATTENTION,
    ),
    "distilbert": Family(
        layers="transformer.layer.{}",
        outputs=("attention.out_lin", "ffn.lin2"),
        up="ffn.lin1",
        down="ffn.lin2",
        width="hidden_dim",
        norms=("sa_layer_norm", "output_layer_norm"),
        activation="activation",
        dropout={"hidden": "dropout", "attention": "attention_dropout", "classifier": "seq_classif_dropout"},
    ),
    "albert": Family(
        layers="encoder.albert_layer_groups.{}.albert_layers.{}",
        outputs=("attention.dense", "ffn_output"),
        up="ffn",
        down="ffn_output",
        norms=("attention.LayerNorm", "full_layer_layer_norm"),
        dropout=_HIDDEN_ATTENTION | {"classifier": "classifier_dropout_prob"},
        shared=True,
    ),
    "modernbert": Family(
        layers="layers.{}",
        outputs=("attn.Wo", "mlp.Wo"),
        up="mlp.Wi",
        down="mlp.Wo",
        gates=2,
        activation="hidden_activation",
        dropout={
            "hidden": "mlp_dropout",
            "attention": "attention_dropout",
            "embeddings": "embedding_dropout",
            "classifier": "classifier_dropout",
        },
    ),
    "vit": _VIT,
    "deit": _VIT,
    "beit": replace(_VIT, drop_path="linear"),
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
    "swin": Family(
        layers="encoder.layers.{}.blocks.{}",
        outputs=("attention.o_proj", "mlp.fc2"),
        up="mlp.fc1",
        down="mlp.fc2",
        width="mlp_ratio",
        dropout=_HIDDEN_ATTENTION,
        drop_path="linear",
        depths="depths",
    ),
    "convnext": _CONVNEXT,
    "convnextv2": _CONVNEXT,
    "resnet": Family(
        layers="encoder.stages.{}.layers.{}",
        # Of its bottleneck layers; `family_of` tells that of the basic ones.
        outputs=("layer.2.normalization",),
        up=None,
        down=None,
        depths="depths",
        leads=True,
    ),
    "efficientnet": Family(
        layers="encoder.blocks.{}",
        outputs=("projection.project_bn",),
        up=None,
        down=None,
        # What its config calls drop connect is dropout of single features in transformers, more the higher the layer.
        dropout={"hidden": "drop_connect_rate", "classifier": "dropout_rate"},
        depths="num_block_repeats",
        leads=True,
    ),
    "poolformer": Family(
        layers="encoder.block.{}.{}",
        outputs=("layer_scale_1", "output.conv2"),
        up="output.conv1",
        down="output.conv2",
        width="mlp_ratio",
        drop_path="linear",
        depths="depths",
    ),
}


@dataclass(frozen=True)
class Source:
    """Where the weights of a layer come from."""

    layer: int
    """Number of the layer, before."""
    adds_nothing: bool = False
    """Whether its outputs are set to zero, so that it passes on what it gets."""


def refusal(operation: str, what: str) -> InputError:
    """The error of an operation that cannot be done: one line, to be raised."""
    return InputError(f"model.surgery: {operation}: {what}")


def check_family(config: PreTrainedConfig, families: Collection[str], operation: str) -> None:
    """Raise the error of an operation that is not for this family."""
    if config.model_type not in families:
        raise refusal(operation, f"expected one of {', '.join(families)}, got {config.model_type}; leave it out")


def family_of(config: PreTrainedConfig, operation: str) -> Family:
    """The family of a checkpoint.

    Raises:
        InputError: it is not known here.
    """
    check_family(config, FAMILIES, operation)
    family = FAMILIES[config.model_type]
    if config.model_type == "resnet" and config.layer_type == "basic":
        return replace(family, outputs=("layer.1.normalization",))
    return family


def depths_of(config: PreTrainedConfig, family: Family) -> list[int]:
    """Number of layers of each stage; one stage in families without."""
    said = getattr(config, family.depths)
    if not family.staged:
        return [said]
    # EfficientNet multiplies what its config lists.
    factor = config.to_dict().get("depth_coefficient", 1)
    return [math.ceil(factor * count) for count in said]


def depth_of(config: PreTrainedConfig, family: Family) -> int:
    """Number of layers, over all stages."""
    return sum(depths_of(config, family))
