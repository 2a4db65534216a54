import dataclasses

import pytest
from peft import PromptTuningConfig

from hf_finetune import ImageData, InputError, Model, Precision, Recipe, TextData, Train
from hf_finetune.augmentation.compose import Phases, Sometimes
from hf_finetune.augmentation.text.operations import SwapWords
from hf_finetune.config import recipe as module
from hf_finetune.config.rules import check
from hf_finetune.models.surgery.operations import ReinitTopLayers

RECIPE = Recipe(name="a", data=TextData(path="x"), model=Model("m"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": Train(learning_rate=-1.0)}, "train.learning_rate: expected a number above 0, got -1.0"),
        ({"train": Train(num_train_epochs=0)}, "train.num_train_epochs"),
        ({"train": Train(head_inverse_strength=0.0)}, "train.head_inverse_strength"),
        ({"train": Train(head_least_explained=1.5)}, "train.head_least_explained"),
        (
            {"train": Train(per_device_train_batch_size=0)},
            "train.per_device_train_batch_size: expected at least 1, got 0",
        ),
        ({"train": Train(warmup_steps=-1)}, "train.warmup_steps"),
        ({"train": Train(weight_decay=-1)}, "train.weight_decay: expected 0 or more"),
        ({"train": Train(max_grad_norm=-1)}, "train.max_grad_norm: expected 0 or more"),
        ({"train": Train(max_steps=0)}, "train.max_steps: expected at least 1, or -1"),
        ({"train": Train(early_stopping_patience=0)}, "train.early_stopping_patience: expected at least 1"),
        ({"train": Train(seed=-1)}, "train.seed: expected a whole number from 0 to 4294967295, got -1"),
        ({"data": TextData(path="x", split_seed=2**32)}, "data.split_seed: expected a whole number from 0"),
        ({"model": Model("m", base_model="/home/me/model")}, "model.base_model: expected a Hub id"),
        ({"model": Model("m", patch_drop=0.5)}, "model.patch_drop: expected 0 for texts, got 0.5"),
        (
            {"data": ImageData(path="x"), "model": Model("m", patch_drop=1.0)},
            "model.patch_drop: expected at least 0 and below 1, got 1.0",
        ),
        ({"data": ImageData(path="x", low_resolution=4)}, "data.low_resolution: expected at least 8 pixels, got 4"),
        (
            {"data": ImageData(path="x", low_resolution=160, low_resolution_share=0.0)},
            "data.low_resolution_share: expected above 0 and at most 1, got 0.0",
        ),
        ({"precision": Precision(threads=0)}, "precision.threads: expected at least 1, got 0"),
        ({"adapter": {"r": 4}}, "adapter: expected a PEFT config"),
        (
            {"adapter": PromptTuningConfig(num_virtual_tokens=4), "optim": module.Optim(layer_decay=0.9)},
            "optim.layer_decay: expected None with prompt_tuning, whose layers stay as they are, got 0.9",
        ),
        (
            {
                "model": Model("m", surgery=(ReinitTopLayers(1),)),
                "regularize": module.Regularize(mixout=0.5),
            },
            "regularize.mixout: expected 0 beside ReinitTopLayers",
        ),
        (
            {"data": TextData(path="x", augment=(Sometimes(Phases((SwapWords(),))),), augment_copies=1)},
            "data.augment_copies: expected 0 beside Phases, as stored copies are the same all through the training, got 1",
        ),
        ({"data": TextData(path="x", max_length=3)}, "data.max_length: expected at least 4"),
        ({"data": TextData(path="x", validation_fraction=1.0)}, "data.validation_fraction"),
        ({"data": TextData(path="x", max_train_rows=1)}, "data.max_train_rows"),
        ({"data": TextData(path="x", rows_per_class=0)}, "data.rows_per_class: expected at least 1, got 0"),
        ({"model": Model("m", dropout=1.0)}, "model.dropout"),
        ({"model": Model("m", top_layers=-1)}, "model.top_layers: expected 0 or more, got -1"),
        ({"model": Model("m", frozen_layers=1), "method": "top"}, "model.frozen_layers: expected 0 with method top"),
        ({"batching": module.Batching(cache_gb=0.0)}, "batching.cache_gb: expected a number above 0"),
        ({"model": Model("m", frozen_layers=-1)}, "model.frozen_layers"),
        ({"model": Model("m", last_layers=0)}, "model.last_layers: expected at least 1, got 0"),
        ({"model": Model("m", head_width=8)}, "model.head_width: expected at least 1, beside model.head mlp, got 8"),
        ({"model": Model("m", head="mlp", head_width=0)}, "model.head_width: expected at least 1"),
        (
            {"model": Model("m", head_activation="relu")},
            "model.head_activation: expected None without model.head mlp, which has a hidden layer, got 'relu'",
        ),
        (
            {"model": Model("m", pooling="mean"), "adapter": PromptTuningConfig(num_virtual_tokens=4)},
            "adapter: expected another adapter beside model.pooling, model.last_layers or model.head, got 'prompt_tuning'",
        ),
        ({"objective": module.Supervised(label_smoothing=1.0)}, "objective.label_smoothing"),
        ({"evaluate": module.Evaluate(resamples=10)}, "evaluate.resamples"),
        ({"evaluate": module.Evaluate(parity_rows=0)}, "evaluate.parity_rows"),
        (
            {"batching": module.Batching(rows_per_step=32), "train": Train(gradient_accumulation_steps=2)},
            "train.gradient_accumulation_steps: expected 1 beside batching.rows_per_step",
        ),
        ({"batching": module.Batching(token_budget=0)}, "batching.token_budget: expected at least 1, got 0"),
        (
            {"batching": module.Batching(token_budget=512, by_length=False)},
            "batching.token_budget: expected None for pictures and without batching.by_length",
        ),
        (
            {"batching": module.Batching(token_budget=512, rows_per_step=32)},
            "batching.rows_per_step: expected None beside batching.token_budget",
        ),
        (
            {"batching": module.Batching(unpadded=True), "data": ImageData(path="x")},
            "batching.unpadded: expected false or None for pictures",
        ),
    ],
)
def test_values_out_of_range_are_named(change: dict, message: str) -> None:
    check(RECIPE)
    with pytest.raises(InputError, match=message):
        check(dataclasses.replace(RECIPE, **change))
