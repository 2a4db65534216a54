"""The checkpoint families that the package knows, and what it knows of each.

To support another family, add an entry to `FAMILIES` and a tiny config of it to tests/helpers/tiny.py, from which the
tests take their families. Checkpoints of other families can be fine-tuned too; a feature that needs one of these facts
then refuses them by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from hf_finetune.models.family import Family, FeedForward, FusedParts, Images, StockHead

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


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
        attention="attention.self",
        activation="intermediate.intermediate_act_fn",
        out_dropout="attention.output.dropout",
        down_dropout="output.dropout",
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
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_VIT_IMAGES = Images(patches=True, tokens_before=1, any_size=True, mask_token=True, on_request=True)
_VIT = Family(
    layers="layers.{}",
    outputs=("attention.o_proj", "mlp.fc2"),
    feed_forward=FeedForward("mlp.fc1", "mlp.fc2"),
    dropout=_HIDDEN_ATTENTION,
    attention="plain",
    projections=_PROJECTIONS,
    head=StockHead("cls", "linear"),
    images=_VIT_IMAGES,
)
_DINOV2 = Family(
    layers="encoder.layer.{}",
    # mlp.down_proj is in the SwiGLU units of the giant model.
    outputs=("attention.o_proj", "mlp.fc2", "mlp.down_proj"),
    feed_forward=FeedForward("mlp.fc1", "mlp.fc2", "mlp_ratio"),
    # Its layers have no residual dropout: hidden_dropout_prob applies to the embeddings only.
    dropout={"embeddings": "hidden_dropout_prob", "attention": "attention_probs_dropout_prob"},
    drop_path="constant",
    attention="plain",
    projections=_PROJECTIONS,
    head=StockHead(None, "linear"),
    images=Images(patches=True, tokens_before=1, any_size=True),
)
# No feed_forward: its width is always 4 times the layer's.
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
        projections=("q", "k", "v"),
        tokenwise_from="attention.LayerNorm",
        # It counts from padding token 1, whatever its config says.
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
        projections=("q_lin", "k_lin", "v_lin"),
        fused=FusedParts(
            attention="attention",
            activation="ffn.activation",
            out_dropout=None,
            down_dropout="ffn.dropout",
        ),
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
    # ESM-2 and Nucleotide Transformer. The activation is fixed, and positions are rotary in most checkpoints.
    "esm": Family(
        layers="encoder.layer.{}",
        outputs=("attention.output.dense", "output.dense"),
        feed_forward=FeedForward("intermediate.dense", "output.dense"),
        dropout=_HIDDEN_ATTENTION,
        after_layers=("encoder.emb_layer_norm_after",),
        head=_tanh_mlp("classifier.dense", "classifier.out_proj"),
    ),
    "vit": _VIT,
    "deit": replace(_VIT, distillation_token=True, images=replace(_VIT_IMAGES, tokens_before=2)),
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
        alternates=True,
        attention="biased",
        projections=_PROJECTIONS,
        head=StockHead("mean", "linear"),
        images=Images(mask_token=True),
    ),
    "convnext": _CONVNEXT,
    "convnextv2": _CONVNEXT,
    "resnet": Family(
        layers="encoder.stages.{}.layers.{}",
        # Basic layers have two convolutions, bottleneck layers three.
        outputs=lambda config: (f"layer.{1 if config.layer_type == 'basic' else 2}.normalization",),
        depths="depths",
        first_changes_shape=True,
        # Any other activation after the layer would change its input.
        identity_requires={"hidden_act": "relu"},
        head=StockHead("mean", "linear"),
        images=Images(any_size=True),
    ),
    "efficientnet": Family(
        layers="encoder.blocks.{}",
        outputs=("projection.project_bn",),
        # transformers implements drop connect as ordinary dropout.
        dropout={"hidden": "drop_connect_rate", "classifier": "dropout_rate"},
        graded_dropout="projection.dropout",
        depths="num_block_repeats",
        first_changes_shape=True,
        after_layers=("encoder.top_conv", "encoder.top_bn"),
        # Width of the convolution after the layers.
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
        # Without layer scales, nothing can zero the output of its pooling.
        identity_requires={"use_layer_scale": True},
        images=Images(),
    ),
}


# For a checkpoint of a family that is not listed.
UNKNOWN = Family()


def names_where(condition: Callable[[Family], object]) -> tuple[str, ...]:
    """Return the names of the families that meet a condition."""
    return tuple(name for name, family in FAMILIES.items() if condition(family))


PROJECTIONS = tuple(dict.fromkeys(family.projections for family in FAMILIES.values()))
"""All names that families give to their query, key and value layers."""


def family_of(config: PreTrainedConfig) -> Family:
    """Return the family of a checkpoint, `UNKNOWN` if it is not listed."""
    return FAMILIES.get(config.model_type, UNKNOWN)


def depths_of(config: PreTrainedConfig) -> list[int]:
    """Return the number of layers of each stage; a family without stages has one stage."""
    family = family_of(config)
    depths = getattr(config, family.depths)
    if not family.staged:
        return [depths]
    # EfficientNet multiplies the listed depths.
    factor = config.to_dict().get("depth_coefficient", 1)
    return [math.ceil(factor * depth) for depth in depths]


def depth_of(config: PreTrainedConfig) -> int:
    """Return the number of layers of all stages."""
    return sum(depths_of(config))


def stage_widths(config: PreTrainedConfig) -> list[int]:
    """Return the width of each stage: listed in the config, or doubled from stage to stage (Swin)."""
    listed = config.to_dict().get("hidden_sizes")
    return listed or [config.embed_dim * 2**stage for stage in range(len(config.depths))]


def width_of(config: PreTrainedConfig) -> int:
    """Return the width of the last hidden states."""
    listed = config.to_dict().get("hidden_sizes")
    return listed[-1] if listed else getattr(config, family_of(config).hidden_size)


def tokens_before_patches(config: PreTrainedConfig) -> int:
    """Return the number of tokens before the patches (CLS, DeiT's distillation token, registers); 0 without a grid."""
    images = family_of(config).images
    if images is None or images.tokens_before is None:
        return 0
    return images.tokens_before + config.to_dict().get("num_register_tokens", 0)


def residual_outputs(config: PreTrainedConfig) -> tuple[str, ...]:
    """Return the modules of a layer that write to the residual stream, see `Family.outputs`."""
    outputs = family_of(config).outputs
    return outputs(config) if callable(outputs) else outputs


def stock_head(config: PreTrainedConfig) -> StockHead | None:
    """Return the head of the family's classification class, or None if it is not known."""
    head = family_of(config).head
    return head(config) if callable(head) else head
