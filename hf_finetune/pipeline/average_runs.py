"""Average the trained weights with those of finished runs: a uniform model soup (arXiv:2203.05482).

Runs that start from the same weights mostly end in one basin of the loss, so that the mean of their weights is better
than each of them, and predicts at the cost of one.
"""

import logging
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from hf_finetune.data.labels import labels_of
from hf_finetune.data.word_inputs import by_row
from hf_finetune.errors import InputError
from hf_finetune.models.modules import classification_layers
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.run_folder import is_finished
from hf_finetune.pipeline.run_setup import RunSetup
from hf_finetune.training.averaging import Weights, load_weights, swapped
from hf_finetune.training.best_weights import Selection
from hf_finetune.training.soup import Candidate
from hf_finetune.training.trainer import ClassifierTrainer
from hf_finetune.utils.files import read_json
from hf_finetune.utils.manifest import Manifest
from hf_finetune.utils.plain import to_plain

logger = logging.getLogger("hf_finetune.run")


def check_averaged_runs(run: Run) -> None:
    """Refuse runs whose weights cannot be averaged with those of a run.

    Raises:
        InputError: one is not finished, or started from other weights, or its network or classes differ.
        GateError: its weights are not those that it wrote.
    """
    if run.recipe.averaging.runs and run.data.task.activation == "identity":
        raise InputError("averaging.runs: expected none with numbers, in whose units the last layer of a run answers")
    shapes = {name: list(parameter.shape) for name, parameter in run.model.network.named_parameters()}
    for name in run.recipe.averaging.runs:
        if why := _why_not(Path(name), run, shapes):
            raise InputError(f"averaging.runs: {name}: {why}")


def _why_not(folder: Path, run: Run, shapes: dict[str, list[int]]) -> str | None:
    if not is_finished(folder) or not (files := _files(folder)):
        return "expected the folder of a finished run, with its network in model/"
    if (manifest := Manifest.find(folder / "model")) is not None:
        manifest.check(("*.safetensors",))
    record = read_json(folder / "recipe.json", "name another run")
    if record.get("weights") != run.origin.weights:
        return "expected a run that started from the same weights: those of other starts have no useful mean"
    if record.get("labels") != list(run.data.splits.labels):
        return f"expected the same classes in the same order, {list(run.data.splits.labels)}"
    surgery = to_plain(run.recipe)["model"]["surgery"]
    if record["recipe"]["model"]["surgery"] != surgery:
        return f"expected the same model.surgery, {surgery}"
    for path in files:
        with safe_open(path, framework="pt") as file:
            shapes = {n: shape for n, shape in shapes.items() if n not in set(file.keys()) or _shape(file, n) != shape}
    if shapes:
        return f"expected the same network: {next(iter(shapes))} is missing or has another shape"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "model").glob("*.safetensors"))


def _shape(file: safe_open, name: str) -> list[int]:
    return list(file.get_slice(name).get_shape())


@torch.no_grad()
def average_with_runs(setup: RunSetup, trainer: ClassifierTrainer) -> None:
    """Take the mean of the trained weights and those of the recipe's runs, unless a paired test on the validation rows
    finds it worse than the trained weights."""
    folders = [Path(name) for name in setup.run.recipe.averaging.runs]
    if not folders or setup.dry_run:
        return
    task, rows, model = setup.run.data.task, setup.rows.validation, trainer.model
    labels = by_row(rows, labels_of(rows))
    mean = _mean(model, folders)
    own = task.training_scores(by_row(rows, trainer.logits(rows)))
    with swapped(model, mean):
        averaged = task.training_scores(by_row(rows, trainer.logits(rows)))
    difference = task.compare(labels, averaged, own)
    is_worse = difference["verdict"] == "worse"
    step = trainer.state.best_global_step or trainer.state.global_step
    trained = Candidate("checkpoint", (step,), task.values(labels, own)[setup.run.metric])
    soup = Candidate("runs", (step,), task.values(labels, averaged)[setup.run.metric])
    before = trainer.selection
    trainer.selection = Selection(
        (before.best or trained) if is_worse else soup, (*(before.candidates or (trained,)), soup)
    )
    if not is_worse:
        load_weights(model, mean)
    logger.info(
        "the mean with %d more %s: %s %+.3f [%+.3f, %+.3f] on validation%s",
        len(folders),
        "run" if len(folders) == 1 else "runs",
        difference["metric"],
        *(difference[name] for name in ("value", "low", "high")),
        ", which is worse: the weights of this run stay" if is_worse else "",
    )


def _mean(model: nn.Module, folders: list[Path]) -> Weights:
    """Return the mean of the weights that train and those of runs, on the CPU."""
    total = {n: p.detach().double().cpu() for n, p in model.named_parameters() if p.requires_grad}
    # A temperature in the last layer would give a run more than its share.
    heads = {f"{name}.{part}" for name, part in _head_parameters(model)}
    for folder in folders:
        scaled = read_json(folder / "result.json", "name another run").get("temperature_scaling") or {}
        scale = scaled["temperature"] if scaled.get("folded") else 1.0
        for path in _files(folder):
            with safe_open(path, framework="pt") as file:
                for name in total.keys() & set(file.keys()):
                    total[name] += file.get_tensor(name).double() * (scale if name in heads else 1.0)
    return {name: (value / (1 + len(folders))).float() for name, value in total.items()}


def _head_parameters(model: nn.Module) -> list[tuple[str, str]]:
    layers = {id(layer) for layer in classification_layers(model)}
    named = [(name, module) for name, module in model.named_modules() if id(module) in layers]
    return [(name, part) for name, module in named for part, _ in module.named_parameters()]
