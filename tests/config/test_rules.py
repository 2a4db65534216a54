"""A recipe refuses values out of range and fields that do not go together, by the dotted name of the field."""

from typing import Any

import pytest

from hf_finetune import ImageData, InputError, Model, Recipe, TextData
from hf_finetune.config.rules import CONFLICTS, check
from hf_finetune.utils.files import parse_yaml
from hf_finetune.utils.plain import merge

TEXT = Recipe(name="a", data=TextData(path="x"), model=Model("m"))
IMAGE = Recipe(name="a", data=ImageData(path="x"), model=Model("m"))
PROMPTS = "adapter: {peft_type: PROMPT_TUNING, num_virtual_tokens: 4}"
TEACHER = "type: Distill, teacher: big"
REINIT = "model: {surgery: [{type: ReinitTopLayers, count: 1}]}"

# A value, and the fields for which it is out of range.
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
    "100001": "{evaluate: [resamples]}",
    "2000000.0": "{train: [num_train_epochs], pretrain: [num_train_epochs]}",
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


# The field of an operation, and the operation.
BAD_OPERATIONS = [
    ("optim.optimizer.momentum", "optim: {optimizer: {type: SGD, momentum: 1.0}}"),
    ("SGD.nesterov", "optim: {optimizer: {type: SGD, momentum: 0.0, nesterov: true}}"),
    ("optim.optimizer.eps", "optim: {optimizer: {type: AdamW, eps: 0.0}}"),
    ("optim.optimizer.clip_threshold", "optim: {optimizer: {type: Adafactor, clip_threshold: 0.5}}"),
    ("optim.optimizer.beta2_decay", "optim: {optimizer: {type: Adafactor, beta2_decay: 0.5}}"),
    ("optim.optimizer.ns_steps", "optim: {optimizer: {type: Muon, ns_steps: 0}}"),
    ("optim.optimizer.beta1", "optim: {optimizer: {type: ScheduleFree, beta1: 0}}"),
    *(
        (f"schedule.{name}", f"schedule: {{{name}: {value}}}")
        for name, value in {
            "step_size": "0",
            "min_lr_ratio": "1",
            "factor": "1",
            "patience": "-1",
            "milestones": "[0.5, 0.25]",
            "t_mult": "0",
            "div_factor": "0",
        }.items()
    ),
    ("objective.loss.gamma", "objective: {loss: {type: Focal, gamma: -1}}"),
    ("objective.class_weights.beta", "objective: {class_weights: {type: EffectiveNumber, beta: 1}}"),
    ("objective.class_weights.weights", "objective: {class_weights: {type: PerClass, weights: {}}}"),
    ("objective.class_weights.weights.rare", "objective: {class_weights: {type: PerClass, weights: {rare: 0}}}"),
    ("regularize.elastic_net.l1", "regularize: {elastic_net: {l1: -1}}"),
    ("regularize.gradient_noise.eta", "regularize: {gradient_noise: {eta: -1}}"),
    ("objective.teacher", "objective: {type: Distill, teacher: [big, big]}"),
    ("objective.labels_weight", f"objective: {{{TEACHER}, labels_weight: {{start: 0.9, end: -0.1}}}}"),
    *(
        (rf"objective.kinds\[0\].{name}", f"objective: {{{TEACHER}, kinds: [{{type: {kind}, {name}: {value}}}]}}")
        for kind, name, value in (
            ("SoftTargets", "temperature", "{start: 2, end: 0}"),
            ("HardLabel", "weight", "-1"),
            ("DecoupledKD", "beta", "-1"),
            ("Contrastive", "temperature", "0"),
            ("HiddenStates", "layers", "[]"),
            ("AttentionRelations", "teacher_layer", "0"),
            ("RelationalKD", "angle", "-1"),
        )
    ),
    *(
        (f"pretrain.objective.{name}", f"pretrain: {{objective: {{type: {kind}, {name}: {value}}}}}")
        for kind, name, value in (
            ("MaskedLanguage", "span", "0"),
            ("SimMIM", "block", "0"),
            ("MAE", "share", "1"),
            ("MAE", "decoder_layers", "0"),
            ("MAE", "decoder_width", "90"),
            ("SimCLR", "temperature", "0"),
            ("SimCLR", "projection", "0"),
            ("SimCLR", "augment", "[]"),
        )
    ),
]


@pytest.mark.parametrize(("field", "changes"), BAD_OPERATIONS)
def test_a_value_out_of_range_in_an_operation_is_refused(field: str, changes: str) -> None:
    with pytest.raises(InputError, match=rf"^{field}: expected .*, got ") as caught:
        merge(TEXT, parse_yaml(f"{{{changes}}}" if changes[0] != "{" else changes))
    assert "\n" not in str(caught.value)


def test_every_default_is_in_its_range() -> None:
    """A config constructed without arguments is not validated."""
    for recipe in (TEXT, IMAGE):
        check(merge(recipe, {}))


# The refused field, changes to a recipe, and the recipe if it is not one of texts.
CONFLICTING: list[tuple[Any, ...]] = [
    ("train.extra.x", "train: {extra: {x: .inf}}"),
    ("adapter", "adapter: {r: 4}"),
    ("data.augment", "data: {augment: [{type: Sometimes, operation: Flip}]}"),
    ("data.augment_copies", "data: {augment_copies: 1}"),
    ("data.augment_copies", "data: {augment: [{type: SubstituteByModel, checkpoint: m}]}"),
    ("data.augment_copies", "data: {augment: [{type: Phases, phases: [SwapWords]}], augment_copies: 1}"),
    ("data.unlabeled", "data: {unlabeled: [more]}"),
    ("model.head_width", "model: {head_width: 8}"),
    ("model.head_activation", "model: {head_activation: relu}"),
    ("model.head_activation", "model: {head: convolution, head_activation: relu}"),
    ("model.pooling", "model: {head: lstm, pooling: cls}"),
    ("model.head", "model: {head: gru}", IMAGE),
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
    ("objective.r_drop", "objective: {contrast: 0.5, r_drop: 1.0}"),
    ("objective.mix", "objective: {contrast: 0.5, mix: [Mixup]}"),
    ("batching.unpadded", "{batching: {unpadded: true}, objective: {contrast: 0.5}}"),
    ("evaluate.folds", "{evaluate: {folds: 3}, averaging: {soup: true}}"),
    ("evaluate.folds", "{evaluate: {folds: 3}, train: {early_stopping_patience: 1}}"),
    ("evaluate.folds", "{evaluate: {folds: 3}, pretrain: {objective: SimCSE}}"),
    ("batching.unpadded", "{batching: {unpadded: true}, objective: {mix: [Mixup]}}"),
    ("schedule.num_cycles", "schedule: {num_cycles: 2.0}"),
    ("data.unlabeled", "{data: {unlabeled: [more]}, objective: Supervised}"),
    ("evaluate.folds", f"{{objective: {{{TEACHER}}}, evaluate: {{folds: 3}}}}"),
    ("objective.contrast", f"objective: {{{TEACHER}, contrast: 0.5}}"),
    ("objective.kinds", f"objective: {{{TEACHER}, kinds: []}}"),
    ("objective.kinds", f"objective: {{{TEACHER}, kinds: [{{type: SoftTargets, weight: {{start: 0, end: 0}}}}]}}"),
    ("objective.labels_weight", f"objective: {{{TEACHER}, kinds: [Embedding], labels_weight: 0.0}}"),
    ("objective.mix", f"objective: {{{TEACHER}, mix: [Mixup]}}"),
    ("data.augment_copies", f"{{data: {{augment: [Flip], augment_copies: 1}}, objective: {{{TEACHER}}}}}", IMAGE),
    ("method", f"{{objective: {{{TEACHER}, kinds: [SoftTargets, Embedding]}}, method: head}}"),
    ("objective.teacher", "objective: {type: Distill, teacher: [a, b], kinds: [Embedding]}"),
    ("objective.r_drop", f"objective: {{{TEACHER}, kinds: [Embedding], r_drop: 1.0}}"),
    ("batching.unpadded", f"{{objective: {{{TEACHER}, kinds: [Embedding]}}, batching: {{unpadded: true}}}}"),
    ("adapter.peft_type", f"{{objective: {{{TEACHER}, kinds: [Embedding]}}, {PROMPTS}}}"),
    (
        "train.extra.gradient_checkpointing",
        f"{{objective: {{{TEACHER}, kinds: [HiddenStates]}}, train: {{extra: {{gradient_checkpointing: true}}}}}}",
    ),
    ("model.patch_drop", f"{{objective: {{{TEACHER}, kinds: [HiddenStates]}}, model: {{patch_drop: 0.5}}}}", IMAGE),
    (
        "data.low_resolution",
        f"{{objective: {{{TEACHER}, kinds: [HiddenStates]}}, data: {{low_resolution: 16}}}}",
        IMAGE,
    ),
    ("pretrain.objective", "pretrain: {objective: MAE}"),
    ("pretrain.objective", "pretrain: {objective: SimCSE}", IMAGE),
    ("train.per_device_train_batch_size", "{pretrain: {objective: SimCSE}, train: {per_device_train_batch_size: 1}}"),
    (
        "pretrain.objective.augment",
        "pretrain: {objective: {type: SimCLR, augment: [{type: Phases, phases: [Flip]}]}}",
        IMAGE,
    ),
    (
        "pretrain.objective.augment",
        "pretrain: {objective: {type: SimCLR, augment: [{type: Sometimes, operation: Flip, by_class: rare}]}}",
        IMAGE,
    ),
    (
        "train.early_stopping_patience",
        "{pretrain: {objective: SimCSE, compare: true}, train: {early_stopping_patience: 2}}",
    ),
    ("model.surgery", "{pretrain: {objective: SimCSE}, model: {surgery: [{type: KeepLayers, first: 2}]}}"),
    ("model.from_config", "{pretrain: {objective: SimCSE}, model: {from_config: {}}}"),
    ("model.trust_remote_code", "{pretrain: {objective: SimCSE}, model: {trust_remote_code: true}}"),
    ("adapter.peft_type", f"{{pretrain: {{objective: SimCSE}}, {PROMPTS}}}"),
    ("train.warmup_steps", "train: {lr_scheduler_type: constant, warmup_steps: 10}"),
    ("evaluate.folds", "{evaluate: {folds: 5}, train: {lr_scheduler_type: reduce_lr_on_plateau}}"),
    ("objective.teacher", f"{{method: classical, objective: {{{TEACHER}, kinds: [SoftTargets]}}}}"),
]


@pytest.mark.parametrize(("field", "changes", "recipe"), [(*case, TEXT)[:3] for case in CONFLICTING])
def test_fields_that_do_not_go_together_are_refused(field: str, changes: str, recipe: Recipe) -> None:
    with pytest.raises(InputError, match=rf"^{field}: ") as caught:
        check(merge(recipe, parse_yaml(changes if changes.startswith("{") else f"{{{changes}}}")))
    assert "\n" not in str(caught.value)


def test_every_conflict_names_a_field() -> None:
    for conflict in CONFLICTS:
        assert isinstance(conflict.expected, str) or conflict.expected(TEXT)
        section = conflict.field.split(".")[0]
        assert section in vars(TEXT), conflict
