from dataclasses import replace
from pathlib import Path

import pytest
from peft import LoraConfig

from hf_finetune import Distill, ImageData, Model, Recipe, TextData, Train
from hf_finetune.augmentation.generative.masked_lm import SubstituteByModel
from hf_finetune.augmentation.image.geometry import Flip
from hf_finetune.cli import shipped
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.run_job import RunJob, load_recipe
from hf_finetune.config.rules import UNUSED, unused_options

TEXT = Recipe(name="a", data=TextData(path="x"), model=Model("m"))
DISTILLED = replace(TEXT, objective=Distill(teacher="big"))
IMAGE = replace(TEXT, data=ImageData(path="x"))
PRETRAINED = "--pretrain.objective SimCSE"
# Recipe, value of the field, flags with which it has no effect, and flags with which it has one.
CASES: dict[str, tuple[Recipe, str, str, str]] = {
    "data.validation_fraction": (TEXT, "0.2", "--validation v.csv", ""),
    "data.test_fraction": (TEXT, "0.2", "--test t.csv", ""),
    "data.low_resolution_share": (IMAGE, "0.5", "", "--data.low-resolution 160"),
    "model.top_layers": (TEXT, "3", "--method lora", "--method top"),
    "model.frozen_layers": (TEXT, "1", "--method head", "--method full"),
    "objective.label_smoothing": (DISTILLED, "0.1", "--objective.labels-weight 0", ""),
    "objective.loss": (DISTILLED, "Focal", "--objective.labels-weight 0", ""),
    "objective.class_weights": (TEXT, "Balanced", "--batching.sampling balanced", "--batching.sampling square_root"),
    "objective.logit_adjustment": (TEXT, "1", "--batching.sampling balanced", ""),
    "regularize.gradient_noise.gamma": (TEXT, "0.1", "", "--regularize.gradient-noise.eta 0.01"),
    "train.head_inverse_strength": (TEXT, "1", "--train.no-head-warm-start", ""),
    "train.num_train_epochs": (TEXT, "5", "--train.max-steps 10", ""),
    # The first epoch sets the mark, the second is no better, the third learns at the lower rate.
    "train.lr_scheduler_type": (TEXT, "reduce_lr_on_plateau", "--epochs 2", "--epochs 3"),
    # After epochs 1, 2 and 3 of 3 nothing is left to stop.
    "train.early_stopping_patience": (TEXT, "2", "--epochs 2.5", "--epochs 3.5"),
    "train.head_least_explained": (TEXT, "0.1", "--train.no-head-warm-start", ""),
    "train.per_device_train_batch_size": (TEXT, "8", "--batching.token-budget 4096", ""),
    "averaging.soup": (TEXT, "", "--epochs 1", "--epochs 2"),
    "batching.cache_gb": (TEXT, "2", "--batching.no-cache-prefix", ""),
    "optim.optimizer": (TEXT, "Muon", "--model.trainable biases", "--model.trainable attention"),
    "optim.word_embeddings": (TEXT, "dense", "--model.frozen-layers 1", ""),
    "pretrain.rows": (TEXT, "a.csv b.csv", "", PRETRAINED),
    "pretrain.learning_rate": (TEXT, "1e-4", "", PRETRAINED),
    "pretrain.num_train_epochs": (TEXT, "1", "--pretrain.objective SimCSE --pretrain.max-steps 10", PRETRAINED),
    "pretrain.max_steps": (TEXT, "10", "", PRETRAINED),
    "pretrain.held_out_fraction": (TEXT, "0.1", "", PRETRAINED),
    "pretrain.compare": (TEXT, "", "", PRETRAINED),
    "objective.contrast_temperature": (TEXT, "0.2", "", "--objective.contrast 0.5"),
    "evaluate.repeats": (TEXT, "2", "", "--folds 3"),
    "evaluate.group": (TEXT, "author", "--validation dev.csv", "--validation dev.csv --folds 3"),
    "train.fit_schedule": (TEXT, "", "", "--max-time 60s"),
    "hub.private": (TEXT, "", "", "--push me/it"),
    "hub.revision": (TEXT, "next", "", "--push me/it"),
    "hub.create_pr": (TEXT, "", "", "--push me/it"),
}


def notes(recipe: Recipe, flags: str) -> list[str]:
    """Return the fields that the notes name."""
    parsed = parse_run(RunJob(recipe), flags.split(), "hf-finetune run").recipe
    return [note.split(" has no effect here: ")[0] for note in unused_options(parsed)]


def test_every_row_has_a_case() -> None:
    assert CASES.keys() == {option.field for option in UNUSED}


@pytest.mark.parametrize("name", CASES)
def test_a_note_exactly_where_an_option_has_no_effect(name: str) -> None:
    recipe, value, idle, busy = CASES[name]
    flag = f"--{name.replace('_', '-')} {value}"
    assert notes(recipe, f"{flag} {idle}") == [name]
    assert notes(recipe, f"{flag} {busy}") == []
    assert notes(recipe, idle) == [], "the default is not noted"


def test_sections_that_the_method_does_not_read() -> None:
    flags = "--epochs 2 --model.top-layers 3 --classical.folds 3"
    assert notes(TEXT, f"{flags} --method classical") == ["model.top_layers", "train.num_train_epochs"]
    assert notes(TEXT, f"{flags} --method top") == ["classical.folds"]


def test_teacher_logits_are_cached() -> None:
    assert notes(DISTILLED, "--batching.cache-gb 2 --batching.no-cache-prefix") == []


def test_images_have_no_words_and_cache_pixels() -> None:
    assert notes(IMAGE, "--optim.word-embeddings frozen --method lora") == ["optim.word_embeddings"]
    assert notes(IMAGE, "--batching.cache-gb 2 --batching.no-cache-prefix") == []
    assert notes(IMAGE, "--batching.cache-gb 2 --batching.no-cache-prefix --data.no-decode-once") == [
        "batching.cache_gb"
    ]


def test_augmented_copies_and_generated_texts_are_cached() -> None:
    images = replace(IMAGE, data=ImageData(path="x", augment=(Flip(),), augment_copies=1, decode_once=False))
    texts = replace(TEXT, data=TextData(path="x", augment=(SubstituteByModel("m"),), augment_copies=1))
    for recipe in (images, texts):
        assert notes(recipe, "--batching.cache-gb 2 --batching.no-cache-prefix") == []


def test_an_adapter_determines_what_trains() -> None:
    recipe = replace(TEXT, adapter=LoraConfig(), model=Model("m", top_layers=3))
    assert [note.split()[0] for note in unused_options(recipe)] == ["model.top_layers"]


def test_shipped_recipes_have_no_unused_options() -> None:
    for name in shipped.names():
        assert unused_options(load_recipe(name)) == (), name


@pytest.mark.usefixtures("gate_here")
def test_a_run_notes_unused_options(tmp_path: Path) -> None:
    from helpers.small_runs import small_recipe

    from hf_finetune.pipeline.run import prepare

    recipe = small_recipe(tmp_path)
    prepared = prepare(replace(recipe, train=Train(num_train_epochs=5.0, max_steps=2)))
    assert "train.num_train_epochs has no effect here: train.max_steps says when the run ends" in prepared.notes
    assert not any("no effect" in note for note in prepare(recipe).notes)


def test_no_head_is_fitted_with_random_weights() -> None:
    recipe = replace(TEXT, model=Model("m", from_config={}))
    assert notes(recipe, "--train.head-inverse-strength 1") == ["train.head_inverse_strength"]
