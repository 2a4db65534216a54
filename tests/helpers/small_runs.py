"""Small training runs on tiny models, shared by the tests of the trainer and of whole runs."""

from __future__ import annotations

import csv
import inspect
import io
import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.checkpoints import load_classifier, load_image_processor, load_tokenizer
from helpers.ranks import run_in_two_processes
from helpers.tiny import IMAGE_FAMILIES, WORDS, tiny_image_checkpoint, tiny_text_checkpoint
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, TrainerState, TrainingArguments

from hf_finetune import Evaluate, Model, Precision, Recipe, TextData, Train
from hf_finetune.data.inputs import ImageInputs, Inputs, TextInputs
from hf_finetune.models.freezing import freeze_batch_norm
from hf_finetune.training.arguments import training_arguments
from hf_finetune.training.callbacks import LogLines
from hf_finetune.training.hooks import Hook
from hf_finetune.training.setup import BatchPlan, TrainingData, TrainingSetup
from hf_finetune.training.trainer import ClassifierTrainer

CPU = torch.device("cpu")


def text_rows(count: int, seed: int = 0) -> Dataset:
    """Texts of one to twenty words; the class says whether "good" or "bad" is among them."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for i in range(count):
        words = list(rng.choice(WORDS.split(), int(rng.integers(1, 20))))
        words[int(rng.integers(len(words)))] = ("bad", "good")[i % 2]
        texts.append(" ".join(words))
        labels.append(i % 2)
    return Dataset.from_dict({"text": texts, "label": labels, "row": list(range(count))})


def image_rows(count: int, seed: int = 0) -> Dataset:
    """Noise of 32x32, dark for one class and bright for the other."""
    rng = np.random.default_rng(seed)
    pictures = []
    for i in range(count):
        pixels = rng.integers(0, 128, (32, 32, 3)) + 100 * (i % 2)
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        pictures.append({"bytes": file.getvalue(), "path": None})
    return Dataset.from_dict({"image": pictures, "label": [i % 2 for i in range(count)], "row": list(range(count))})


def image_folder(folder: Path, count: int) -> Path:
    """The rows of `image_rows` as a folder of one sub-folder a class."""
    for row in image_rows(count):
        file = folder / ("dark", "bright")[row["label"]] / f"{row['row']}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(row["image"]["bytes"])
    return folder


def small_recipe(folder: Path) -> Recipe:
    """54 training rows of a csv file in steps of 8 on a tiny BERT, one epoch, float32."""
    with (folder / "train.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["text", "label"])
        lines.writerows((row["text"], ("bad", "good")[row["label"]]) for row in text_rows(60))
    return Recipe(
        name="small",
        data=TextData(path=str(folder / "train.csv"), max_length=32),
        model=Model(checkpoint=str(tiny_text_checkpoint(folder / "bert"))),
        train=Train(num_train_epochs=1.0, per_device_train_batch_size=8),
        precision=Precision(mixed_precision="no"),
        evaluate=Evaluate(resamples=100, baselines=False, plots=False, parity_rows=4),
    )


def recipe_of_a_word(
    folder: Path, family: str = "bert", *, rows: int = 160, sentence_encoder: bool = False, **config: Any
) -> Recipe:
    """The small recipe with this many rows of `text_rows`, on a tiny encoder.

    Args:
        sentence_encoder: whether the checkpoint says that it was trained to be read by the mean of its tokens.
        config: see `tiny_text_checkpoint`.
    """
    recipe = small_recipe(folder)
    lines = [f"{row['text']},{('bad', 'good')[row['label']]}" for row in text_rows(rows)]
    (folder / "train.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    checkpoint = tiny_text_checkpoint(folder / family, family, **config)
    if sentence_encoder:
        (checkpoint / "modules.json").write_text("[]")
        (checkpoint / "1_Pooling").mkdir()
        (checkpoint / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return replace(recipe, model=Model(checkpoint=str(checkpoint)))


def recipe_of_a_lower_layer(folder: Path) -> Recipe:
    """That recipe for a sentence encoder of four layers, the top one of which forgets what it reads."""
    recipe = recipe_of_a_word(folder, sentence_encoder=True, num_hidden_layers=4)
    network = AutoModel.from_pretrained(recipe.model.checkpoint)
    nn.init.zeros_(network.encoder.layer[-1].output.LayerNorm.weight)
    network.save_pretrained(recipe.model.checkpoint)
    return recipe


def small_trainer(
    folder: Path,
    family: str,
    *,
    rows: int = 40,
    rows_per_step: int = 8,
    micro_batch: int = 8,
    accumulation: int = 1,
    dropout: float | None = 0.0,
    token_budget: int | None = None,
    unpadded: bool = False,
    saving: bool = True,
    trainer: Callable[[nn.Module, TrainingArguments, TrainingSetup], ClassifierTrainer] = ClassifierTrainer,
    **fields,
) -> ClassifierTrainer:
    """A trainer on a tiny checkpoint of `family`, two classes, float32, without a schedule or clipping.

    Args:
        saving: write checkpoints, and end with the best weights.
        trainer: of model, TrainingArguments and setup, see `trainer_with`.
        fields: of `Train`.
    """
    inputs: Inputs
    checkpoint = folder / f"checkpoint-of-{family}"
    if family in IMAGE_FAMILIES:
        if not checkpoint.exists():
            tiny_image_checkpoint(checkpoint, family)
        task, made = "image-classification", image_rows(rows + 8)
        inputs = ImageInputs(load_image_processor(str(checkpoint)))
    else:
        if not checkpoint.exists():
            tiny_text_checkpoint(checkpoint, family)
        task, made = "text-classification", text_rows(rows + 8)
        inputs = TextInputs(load_tokenizer(str(checkpoint), max_length=32, sample=[]), 32)
    model = load_classifier(str(checkpoint), task=task, labels=("no", "yes"), dropout=dropout, seed=0).model
    freeze_batch_norm(model)
    given = {"learning_rate": 1e-3, "num_train_epochs": 1.0, "seed": 0, "max_grad_norm": 0.0, "weight_decay": 0.0}
    given |= {"logging_steps": 1, "per_device_eval_batch_size": 16} | fields
    train = Train(per_device_train_batch_size=micro_batch, gradient_accumulation_steps=accumulation, **given)
    arguments = training_arguments(
        folder / "checkpoints",
        train,
        metric="accuracy",
        greater_is_better=True,
        mixed_precision="no",
        device=CPU,
        saving=saving,
    )
    data = TrainingData(
        inputs.encode(made.select(range(rows))), inputs.encode(made.select(range(rows, rows + 8))), inputs
    )
    return trainer(
        model, arguments, TrainingSetup(data, BatchPlan(rows_per_step, token_budget=token_budget, unpadded=unpadded))
    )


def trainer_with(
    *,
    hooks: Sequence[Hook] | Callable[[nn.Module], Sequence[Hook]] = (),
    data: dict[str, Any] | None = None,
    batching: dict[str, Any] | None = None,
    **parts,
) -> Callable[[nn.Module, TrainingArguments, TrainingSetup], ClassifierTrainer]:
    """What makes a trainer whose setup differs in some fields of its data, its batching, or in whole parts."""

    def make(model: nn.Module, args: TrainingArguments, setup: TrainingSetup) -> ClassifierTrainer:
        changed = replace(
            setup,
            data=replace(setup.data, **(data or {})),
            batching=replace(setup.batching, **(batching or {})),
            hooks=tuple(hooks(model) if callable(hooks) else hooks),
            **parts,
        )
        return ClassifierTrainer(model, args, changed)

    return make


def use_data(trainer: ClassifierTrainer, **changes) -> ClassifierTrainer:
    """The trainer with some fields of its data changed."""
    data = replace(trainer.setup.data, **changes)
    trainer.setup = replace(trainer.setup, data=data)
    trainer.train_dataset, trainer.eval_dataset = data.train, data.validation
    return trainer


def weights(trainer: ClassifierTrainer) -> dict[str, torch.Tensor]:
    """A copy of the trained weights."""
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference between two sets of weights."""
    assert one.keys() == other.keys()
    return max(float((one[n].double() - other[n].double()).abs().max()) for n in one)


def stop_after(patch: pytest.MonkeyPatch, *steps: int) -> None:
    """Send runs SIGTERM at the end of these steps, one each, in order."""
    left = list(steps)

    def stopped(_: object, args: object, state: TrainerState, control: object, **__: object) -> None:
        if left and state.global_step == left[0]:
            left.pop(0)
            signal.raise_signal(signal.SIGTERM)

    patch.setattr(LogLines, "on_step_end", stopped)


OF_A_RANK = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, str(Path(sys.argv[2]).parent))
from helpers.small_runs import small_trainer, weights
from {module} import {trainer}

trainer = small_trainer(Path(sys.argv[1]), "bert", micro_batch=4, trainer={trainer})
trainer.train()
torch.save(weights(trainer), Path(sys.argv[1]) / f"weights-{{trainer.args.process_index}}.pt")
"""


def trained_by_two(folder: Path, trainer: Callable[..., ClassifierTrainer]) -> list[dict[str, torch.Tensor]]:
    """Weights that each of two processes ends with, of a small BERT with a trainer that a test module makes."""
    module = inspect.getmodule(trainer)
    script = OF_A_RANK.format(module=Path(module.__file__).stem, trainer=trainer.__name__)
    run_in_two_processes(script, folder, module.__file__, folder=folder)
    return [torch.load(folder / f"weights-{rank}.pt") for rank in range(2)]


def change_tensor(path: Path, name: str) -> None:
    """Change a tensor of a saved file a little."""
    tensors = load_file(path)
    tensors[name] += 0.01
    save_file(tensors, path, metadata={"format": "pt"})
