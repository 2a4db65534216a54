"""Defects of the stock Trainer, each shown on it and on ours by one test: it says so when a transformers repairs
one."""

import math
from pathlib import Path

import pytest
import torch
from helpers.small_runs import small_trainer
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from hf_finetune.data.inputs import with_labels
from hf_finetune.errors import TrainingError

# No real one: it only has to be found again.
TOKEN = "hf_" + "x" * 34


def trainer_of(folder: Path, *, stock: bool, **fields) -> Trainer:
    """Two steps of 8 rows on a tiny BERT, logged each."""
    ours = small_trainer(folder, "bert", max_steps=2)
    if not stock:
        return ours
    collate = ours.inputs.collate
    arguments = TrainingArguments(
        str(folder / "stock"),
        per_device_train_batch_size=8,
        max_steps=2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **fields,
    )
    return Trainer(
        ours.model,
        arguments,
        train_dataset=ours.train_dataset.select_columns([*ours.inputs.tokenizer.model_input_names[:2], "label"]),
        data_collator=lambda rows: with_labels(collate, {name: [row[name] for row in rows] for name in rows[0]}),
    )


def files_with_the_token(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]


@pytest.mark.parametrize("stock", [True, False], ids=["stock", "ours"])
def test_a_token_given_to_the_arguments(tmp_path: Path, stock: bool) -> None:
    """The stock one pickles it into the folder that is pushed; ours pickles no arguments at all."""
    if stock:
        trainer_of(tmp_path, stock=True, remove_unused_columns=False, hub_token=TOKEN).save_model(
            str(tmp_path / "model")
        )
        assert files_with_the_token(tmp_path / "model") == ["training_args.bin"]
        return
    ours = trainer_of(tmp_path, stock=False)
    ours.args.hub_token = TOKEN
    ours.save_model(str(tmp_path / "model"))
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert not files_with_the_token(tmp_path) and not list(tmp_path.rglob("*.bin"))


@pytest.mark.parametrize("stock", [True, False], ids=["stock", "ours"])
def test_a_loss_that_is_not_a_number(tmp_path: Path, stock: bool) -> None:
    """The stock one logs 0, ends well and saves weights that are no numbers; ours stops and saves nothing."""
    trainer = trainer_of(tmp_path, stock=stock, **({"remove_unused_columns": False} if stock else {}))
    with torch.no_grad():
        trainer.model.classifier.bias[0] = math.nan
    if stock:
        trainer.train()
        assert [line["loss"] for line in trainer.state.log_history if "loss" in line] == [0.0, 0.0]
        saved = load_file(tmp_path / "stock" / "checkpoint-2" / "model.safetensors")
        assert all(bool(w.isnan().all()) for name, w in saved.items() if name.startswith("classifier"))
        return
    with pytest.raises(TrainingError, match="not a number"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoints/checkpoint-*"))
