"""What a recipe refuses: a field out of its range, and fields that do not go together. All by the field's dotted name."""

from typing import Any

import pytest

from hf_finetune import ImageData, InputError, Model, Recipe, TextData
from hf_finetune.config.rules import CONFLICTS, check
from hf_finetune.utils.files import parse_yaml
from hf_finetune.utils.plain import merge

TEXT = Recipe(name="a", data=TextData(path="x"), model=Model("m"))
IMAGE = Recipe(name="a", data=ImageData(path="x"), model=Model("m"))
PROMPTS = "adapter: {peft_type: PROMPT_TUNING, num_virtual_tokens: 4}"
REINIT = "model: {surgery: [{type: ReinitTopLayers, count: 1}]}"

# Value, and fields that it is out of range for.
OUT_OF_RANGE = {
    "-1": "train: [learning_rate, num_train_epochs, weight_decay, warmup_steps, max_grad_norm, seed]",
    "0": """{train: [max_steps, per_device_train_batch_size, per_device_eval_batch_size, gradient_accumulation_steps,
      logging_steps, head_inverse_strength, early_stopping_patience], data: [rows_per_class], lora: [r, alpha],
      model: [last_layers, head_width, unfreeze_every], batching: [cache_gb, rows_per_step, token_budget],
      precision: [threads], evaluate: [parity_rows], optim: [head_learning_rate, layer_decay, lora_plus_ratio],
      pretrain: [learning_rate, num_train_epochs, max_steps, held_out_fraction], averaging: [ema_decay]}""",
    "1": """{data: [max_train_rows, validation_fraction, test_fraction], model: [dropout, patch_drop], lora: [dropout],
      objective: [label_smoothing], regularize: [mixout], averaging: [ema_decay], evaluate: [resamples],
      pretrain: [held_out_fraction]}""",
    "-2": "{train: [max_steps], model: [top_layers, frozen_layers], optim: [sam_rho], objective: [r_drop, logit_adjustment]}",
    "2": "{train: [head_least_explained], averaging: [tail_share], data: [max_length]}",
    ".inf": "{train: [learning_rate, num_train_epochs], optim: [lora_plus_ratio]}",
    "4294967296": "{train: [seed], data: [split_seed]}",
    "/home/me/model": "{model: [base_model]}",
    "(": "{model: [trainable_pattern]}",
}
FIELDS = [
    (value, section, field)
    for value, sections in OUT_OF_RANGE.items()
    for section, fields in parse_yaml(sections).items()
    for field in fields
]


@pytest.mark.parametrize(("value", "section", "field"), FIELDS)
def test_a_value_out_of_range_is_refused_by_its_dotted_name(value: str, section: str, field: str) -> None:
    changes = {section: {field: parse_yaml(f"'{value}'" if value == "(" else value)}}
    with pytest.raises(InputError, match=rf"^{section}\.{field}: expected .*, got ") as caught:
        merge(TEXT, changes)
    assert "\n" not in str(caught.value)


def test_every_default_is_in_its_range() -> None:
    """A config without arguments is not checked when it is made."""
    for recipe in (TEXT, IMAGE):
        check(merge(recipe, {}))


# A field, what it is with, and the recipe where that is not the one of texts.
CONFLICTING: list[tuple[Any, ...]] = [
    ("train.extra.x", "train: {extra: {x: .inf}}"),
    ("adapter", "adapter: {r: 4}"),
    ("data.augment", "data: {augment: [{type: Sometimes, operation: Flip}]}"),
    ("data.augment_copies", "data: {augment_copies: 1}"),
    ("data.augment_copies", "data: {augment: [{type: SubstituteByModel, checkpoint: m}]}"),
    ("data.augment_copies", "data: {augment: [{type: Phases, phases: [SwapWords]}], augment_copies: 1}"),
    ("data.unlabelled", "data: {unlabelled: [more]}"),
    ("model.head_width", "model: {head_width: 8}"),
    ("model.head_activation", "model: {head_activation: relu}"),
    ("model.patch_drop", "model: {patch_drop: 0.5}"),
    ("model.frozen_layers", "{model: {frozen_layers: 1}, method: top}"),
    ("method", f"{{{REINIT}, method: lora}}"),
    ("model.trainable", "model: {surgery: [{type: ReinitTopLayers, count: 1}], trainable: biases}"),
    (
        "model.attn_implementation",
        "model: {attn_implementation: sdpa, surgery: [{type: SetAttention, implementation: eager}]}",
    ),
    ("model.trainable", "{model: {trainable: norms}, method: lora}"),
    ("model.trainable", "model: {trainable: norms, trainable_pattern: x}"),
    ("model.unfreeze_every", "{model: {unfreeze_every: 1.0}, method: head}"),
    ("method", "{adapter: LORA, method: top}"),
    ("adapter.peft_type", f"{{{PROMPTS}, model: {{pooling: mean}}}}"),
    ("adapter.peft_type", f"{{{PROMPTS}, model: {{surgery: [{{type: KeepLayers, first: 1}}]}}}}"),
    ("lora", "lora: {r: 4}"),
    ("model.frozen_layers", "{adapter: ADALORA, model: {frozen_layers: 1}}"),
    ("method", "{model: {from_config: {}}, method: head}"),
    ("model.frozen_layers", "model: {from_config: {}, frozen_layers: 1}"),
    ("model.base_model", "model: {from_config: {}, base_model: a/b}"),
    ("regularize.mixout", "{model: {from_config: {}}, regularize: {mixout: 0.5}}"),
    ("optim.word_embeddings", "{model: {from_config: {}}, optim: {word_embeddings: frozen}}"),
    ("model.surgery", "model: {from_config: {}, surgery: [{type: ReinitTopLayers, count: 1}]}"),
    ("optim.lora_plus_ratio", "optim: {lora_plus_ratio: 16.0}"),
    ("optim.layer_decay", f"{{{PROMPTS}, optim: {{layer_decay: 0.9}}}}"),
    ("optim.head_learning_rate", "{method: head, optim: {head_learning_rate: 1.0e-3}}"),
    ("optim.optimizer", "{method: head, optim: {optimizer: Muon}}"),
    ("train.lr_scheduler_type", "{optim: {optimizer: ScheduleFree}, train: {lr_scheduler_type: cosine}}"),
    ("optim.optimizer", "{optim: {optimizer: ScheduleFree}, averaging: {soup: true}}"),
    ("optim.sam_adaptive", "optim: {sam_adaptive: true}"),
    ("averaging.soup", "{model: {unfreeze_every: 1.0}, averaging: {soup: true}}"),
    ("averaging.tail_every", "averaging: {tail_every: epoch}"),
    ("averaging", "{adapter: ADALORA, averaging: {soup: true}}"),
    ("regularize.mixout", "{method: head, regularize: {mixout: 0.5}}"),
    ("regularize.mixout", f"{{{REINIT}, regularize: {{mixout: 0.5}}}}"),
    ("regularize.elastic_net.parameters", "regularize: {elastic_net: {parameters: [x]}}"),
    ("optim.optimizer", "{optim: {optimizer: ScheduleFree}, regularize: {elastic_net: {l1: 0.1}}}"),
    ("averaging", "{averaging: {soup: true}, regularize: {elastic_net: {l1: 0.1}}}"),
    ("train.gradient_accumulation_steps", "{batching: {rows_per_step: 32}, train: {gradient_accumulation_steps: 2}}"),
    ("batching.token_budget", "batching: {token_budget: 512, by_length: false}"),
    ("batching.rows_per_step", "batching: {token_budget: 512, rows_per_step: 32}"),
    ("batching.unpadded", "batching: {unpadded: true}", IMAGE),
    ("batching.unpadded", "{batching: {unpadded: true}, objective: {r_drop: 1.0}}"),
    ("objective.mix", "objective: {mix: [CutMix]}"),
    ("batching.unpadded", "{batching: {unpadded: true}, objective: {mix: [Mixup]}}"),
    ("schedule.num_cycles", "schedule: {num_cycles: 2.0}"),
    ("train.warmup_steps", "train: {lr_scheduler_type: constant, warmup_steps: 10}"),
]


@pytest.mark.parametrize(("field", "changes", "recipe"), [(*case, TEXT)[:3] for case in CONFLICTING])
def test_fields_that_do_not_go_together_are_refused(field: str, changes: str, recipe: Recipe) -> None:
    with pytest.raises(InputError, match=rf"^{field}: ") as caught:
        check(merge(recipe, parse_yaml(changes if changes.startswith("{") else f"{{{changes}}}")))
    assert "\n" not in str(caught.value)


def test_every_conflict_names_a_field() -> None:
    for conflict in CONFLICTS:
        conflict.expected.format(r=TEXT)
        section = conflict.field.split(".")[0]
        assert section in vars(TEXT), conflict
