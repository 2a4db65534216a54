"""Tiny random checkpoints of every family, made in a folder without a network: a few thousand weights each."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    EsmConfig,
    EsmForMaskedLM,
    EsmTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ViTImageProcessor,
)

from hf_finetune.models.families import FAMILIES

WORDS = (
    "a about all also and are as at bad ball be best better boring but by can case club cup did do even ever every "
    "film first for from fun game get goal good great had has have he her his i in is it its just last like little "
    "long lot made make many match may me more most movie much my new no not now of off on one only or other our "
    "out over own play player plot point poor price race really record same score season see she so some story such "
    "team than that the their them then there they this time to too two up us very war was way we well were what "
    "when which who will win with work world worst would year you"
)

_BLOCKS = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.1,
}
_STAGES = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
_SHAPES: dict[str, dict] = {
    "bert": _BLOCKS,
    "roberta": _BLOCKS,
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64, "initializer_range": 0.1},
    "deberta-v2": _BLOCKS
    | {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
    | {"position_biased_input": False, "norm_rel_ebd": "layer_norm"},
    "electra": _BLOCKS | {"embedding_size": 16},
    "albert": _BLOCKS | {"embedding_size": 16},
    "mpnet": _BLOCKS,
    "modernbert": _BLOCKS | {"local_attention": 16},
    "vit": _BLOCKS | {"image_size": 32, "patch_size": 8},
    "deit": _BLOCKS | {"image_size": 32, "patch_size": 8},
    "dinov2": {k: v for k, v in _BLOCKS.items() if k != "intermediate_size"} | {"image_size": 32, "patch_size": 8},
    "swin": _STAGES,
    "dinov2_with_registers": {k: v for k, v in _BLOCKS.items() if k != "intermediate_size"}
    | {"image_size": 32, "patch_size": 8, "num_register_tokens": 2},
    "beit": _BLOCKS | {"image_size": 32, "patch_size": 8, "use_relative_position_bias": True},
    "convnext": {
        "image_size": 32,
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 2, 1],
        "initializer_range": 0.1,
        "layer_scale_init_value": 0.5,
    },
    "convnextv2": {
        "image_size": 32,
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 2, 1],
        "initializer_range": 0.1,
    },
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "layer_type": "basic"},
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
    # Not in `models/families.py`: each for a test of its own.
    "ibert": _BLOCKS,
    "longformer": _BLOCKS | {"attention_window": 8},
    "mobilenet_v1": {"image_size": 32, "depth_multiplier": 0.25},
    "mobilenet_v2": {"image_size": 32, "depth_multiplier": 0.25},
    "nystromformer": _BLOCKS,
    "squeezebert": _BLOCKS | {"embedding_size": 32},
    "swinv2": _STAGES,
    # hidden_dim is 1,280 times the width's coefficient: no config of the family can say otherwise.
    "efficientnet": {
        "image_size": 32,
        "width_coefficient": 0.25,
        "depth_coefficient": 1.0,
        "depth_divisor": 8,
        "kernel_sizes": [3, 3, 5],
        "in_channels": [32, 32, 48],
        "out_channels": [32, 48, 64],
        "strides": [1, 2, 2],
        "num_block_repeats": [1, 2, 1],
        "expand_ratios": [1, 2, 2],
        "hidden_dim": 320,
        "initializer_range": 0.2,
    },
    "poolformer": {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 2, 1],
        "mlp_ratio": 2.0,
        "layer_scale_init_value": 0.5,
        "initializer_range": 0.1,
    },
}

KIN = ("dinov2_with_registers", "convnextv2")
"""Families whose layers are those of another one: not in the lists below, for the time of the tests."""
TEXT_FAMILIES, IMAGE_FAMILIES = (
    tuple(name for name in FAMILIES if name in {*_SHAPES} - {*KIN} and (FAMILIES[name].images is not None) == images)
    for images in (False, True)
)
"""The families that every contract of families is tested with: those of `models/families.py` with a shape here."""


def tiny_tokenizer(family: str = "bert") -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer of a few words and every ASCII character, with the family's specials."""
    if family in ("roberta", "mpnet"):
        cls, pad, sep, unk, mask = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
        special = [cls, pad, sep, unk, mask]
    else:
        cls, pad, sep, unk, mask = "[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"
        special = [pad, unk, cls, sep, mask]
    characters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [*special, *characters, *(f"##{c}" for c in string.ascii_lowercase + string.digits), *WORDS.split()]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unk))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing((sep, vocabulary[sep]), (cls, vocabulary[cls]))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    if family in ("roberta", "distilbert", "mpnet", "modernbert"):
        names.remove("token_type_ids")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token=cls,
        pad_token=pad,
        sep_token=sep,
        unk_token=unk,
        mask_token=mask,
        model_max_length=64,
        model_input_names=names,
    )


def tiny_text_checkpoint(folder: str | Path, family: str = "bert", *, seed: int = 0, **config) -> Path:
    """A pretrained-like encoder without a head, with its tokenizer: 3 layers of width 32, 64 tokens at most.

    Args:
        config: fields of the family's config to set otherwise.
    """
    tokenizer = tiny_tokenizer(family)
    # RoBERTa and MPNet count positions from behind the padding index.
    positions = 64 + (tokenizer.pad_token_id + 1 if family in ("roberta", "mpnet") else 0)
    fields = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": positions,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    if family == "modernbert":
        fields |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    _save_encoder(Path(folder), family, seed, fields | config)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def tiny_esm_checkpoint(folder: Path) -> Path:
    """A tiny ESM-2 of random weights, with the tokenizer of its family."""
    folder.mkdir(parents=True)
    letters = "<cls> <pad> <eos> <unk> L A G V S E R T I D P N K Q F Y M H W C X B U Z O . - <null_1> <mask>"
    (folder / "vocab.txt").write_text(letters.replace(" ", "\n"))
    tokenizer = EsmTokenizer(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    config = EsmConfig(
        vocab_size=len(tokenizer),
        pad_token_id=1,
        mask_token_id=32,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
    )
    EsmForMaskedLM(config).save_pretrained(folder)
    return folder


def tiny_image_checkpoint(folder: str | Path, family: str = "vit", *, seed: int = 0, **config) -> Path:
    """A pretrained-like encoder without a head for 32x32 images, with its image processor.

    Args:
        config: fields of the family's config to set otherwise.
    """
    _save_encoder(Path(folder), family, seed, config)
    size = config.get("image_size", 32)
    ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)
    return Path(folder)


def one_layer_bert() -> PreTrainedModel:
    """A classifier small enough to compute by hand: two features, and two neurons that each read one of them."""
    config = AutoConfig.for_model(
        "bert", vocab_size=9, hidden_size=2, num_hidden_layers=1, num_attention_heads=1, intermediate_size=2
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        model.bert.encoder.layer[0].intermediate.dense.weight.copy_(torch.eye(2))
    return model


def _save_encoder(folder: Path, family: str, seed: int, fields: dict) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(AutoConfig.for_model(family, **(_SHAPES[family] | fields)))
        for norm in model.modules():
            if family == "efficientnet" and isinstance(norm, torch.nn.BatchNorm2d):
                # transformers starts them near 0, and with them all that follows.
                torch.nn.init.uniform_(norm.weight, 1.2, 2.4)
    model.save_pretrained(folder)
