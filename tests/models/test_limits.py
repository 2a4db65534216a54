"""Each limit on a checkpoint has a field that raises it, and a run is loaded again with the limits of its training."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import transformers
from helpers.checkpoints import refusal
from helpers.damage import edit_json

from hf_finetune.cli.doctor import DoctorJob
from hf_finetune.cli.parsing import parse
from hf_finetune.cli.predict import PredictJob
from hf_finetune.models.checkpoint import FoundCheckpoint, LocalCheckpoint, inspect_checkpoint, trained_limits
from hf_finetune.models.checkpoint_config import check_config, load_config
from hf_finetune.models.config import CHECKPOINT_LIMITS, CheckpointLimits, Model
from hf_finetune.models.processors import load_image_processor, load_tokenizer
from hf_finetune.tasks.trained_model import load_trained

GROWING = {"type": "Prepend", "prepend": "a" * 101}


def meet(local: LocalCheckpoint) -> None:
    """Use all that the limits are about."""
    load_config(local)
    if local.config["model_type"] == "vit":
        load_image_processor(local)
        return
    load_tokenizer(local, max_length=16, sample=["a film"])
    check_config(local, "text-classification", from_config={})


@pytest.mark.parametrize(
    ("family", "name", "enough"),
    [
        ("bert", "max_layers", 3),
        ("bert", "max_parameters", 1_000_000),
        ("bert", "max_tensors", 100),
        ("bert", "max_classes", 5),
        ("bert", "max_added_tokens", 20),
        ("bert", "max_token_growth", 3),
        ("vit", "max_image_side", 32),
    ],
)
def test_the_message_names_the_field_that_raises_it(
    checkpoint, tmp_path: Path, family: str, name: str, enough: int
) -> None:
    folder = Path(shutil.copytree(checkpoint(family), tmp_path / family))
    if family == "bert":
        edit_json(folder / "config.json", id2label={"0": "bad", "1": "good"}, label2id={"bad": 0, "good": 1})
        edit_json(folder / "tokenizer.json", normalizer={"type": "Prepend", "prepend": "aaa"})
    message = refusal(lambda: meet(inspect_checkpoint(folder, limits=CheckpointLimits(**{name: 1}))))
    assert message.endswith(f"raise --model.{name.replace('_', '-')}")
    meet(inspect_checkpoint(folder, limits=CheckpointLimits(**{name: enough})))


def test_all_limits_are_tried() -> None:
    tried = {arguments[1] for arguments in test_the_message_names_the_field_that_raises_it.pytestmark[0].args[1]}
    assert tried == {field.name for field in fields(CheckpointLimits)}


def test_limits_are_fields_of_a_recipe_and_flags_of_the_other_commands() -> None:
    assert Model(checkpoint="bert", max_layers=7).max_layers == 7
    raised = CheckpointLimits(max_image_side=2048)
    flags = ["--model.max-image-side", "2048"]
    assert parse(PredictJob, ["run", "rows.csv", *flags], "predict").limits == raised
    assert parse(DoctorJob, ["rows.csv", "--model", "bert", *flags], "doctor").checkpoint_limits == raised


def test_raised_limits_add_up_and_lowered_ones_stay() -> None:
    mine = CheckpointLimits(max_layers=6, max_classes=200_000)
    theirs = CheckpointLimits(max_classes=300_000, max_tensors=5)
    assert mine.raised_to(theirs) == CheckpointLimits(max_layers=6, max_classes=300_000)
    assert Model(checkpoint="bert", max_layers=6).raised_to(CHECKPOINT_LIMITS) == CheckpointLimits(max_layers=6)


@pytest.fixture
def run(classifier, checkpoint, tmp_path: Path) -> Path:
    """A run whose tokenizer is beyond the limits; its recipe.json raised them."""
    folder = tmp_path / "run" / "model"
    classifier("bert").model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(checkpoint("bert")).save_pretrained(folder)
    edit_json(folder / "tokenizer.json", normalizer=GROWING)
    recipe = {"recipe": {"model": {"checkpoint": "bert", "max_token_growth": 200}}}
    (folder.parent / "recipe.json").write_text(json.dumps(recipe))
    return folder.parent


def test_a_run_is_loaded_with_the_limits_that_it_was_trained_with(run: Path) -> None:
    for folder in (run, run / "model"):
        assert load_trained(str(folder)).limits.max_token_growth == 200
    (run / "recipe.json").unlink()
    assert refusal(lambda: load_trained(str(run))).endswith("raise --model.max-token-growth")
    raised = CheckpointLimits(max_token_growth=101)
    assert load_trained(str(run), limits=raised).limits == raised


def test_a_repository_does_not_raise_its_own_limits(run: Path) -> None:
    assert inspect_checkpoint(FoundCheckpoint("me/run", run / "model", None)).limits.max_token_growth == 200
    assert inspect_checkpoint(FoundCheckpoint("me/run", run / "model", "a" * 40)).limits == CHECKPOINT_LIMITS


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"recipe": null}', b'{"recipe": {"model": {"max_layers": "x"}}}', b"[" * 100_000, b"\xff"]
)
def test_a_damaged_recipe_raises_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "recipe.json").write_bytes(content)
    assert trained_limits(tmp_path) == CHECKPOINT_LIMITS == trained_limits(tmp_path / "nowhere")
