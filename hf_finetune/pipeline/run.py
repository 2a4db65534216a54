"""The page on which the data flows: recipe -> data -> model -> training -> evaluation -> parity gate -> card -> Hub.

    prepare   start, load_data, build_model, check; nothing is written yet
              pretrain, where the recipe asks for it
    fit       augment, encode_rows, ask_teacher, make_ready with fit_head, train
    finish    save, evaluate, verify, document, publish

Each stage has a file of its own. It takes what the stages before it have found, and returns what it adds.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn

from hf_finetune.config.recipe import Launch, Recipe
from hf_finetune.config.rules import unused_options
from hf_finetune.data.provenance import start_overlaps
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.hub.push import check_target
from hf_finetune.pipeline.ask_teacher import ask_teacher, search_layers, teachers_of
from hf_finetune.pipeline.augment import add_copies
from hf_finetune.pipeline.build_model import (
    WITHOUT_ADAPTER,
    build_model,
    find_origin,
    narrow_last_layer,
    trial_network,
)
from hf_finetune.pipeline.check import check_checkpoint, check_run, check_teachers, note_on_compared_rows
from hf_finetune.pipeline.comparison import WITHOUT, longer_training, stage_seconds
from hf_finetune.pipeline.context import PreparedRun, start
from hf_finetune.pipeline.document import document
from hf_finetune.pipeline.encode_rows import encode_rows
from hf_finetune.pipeline.evaluate import evaluate
from hf_finetune.pipeline.load_data import load_data
from hf_finetune.pipeline.make_ready import make_ready, write_start
from hf_finetune.pipeline.parity import refuse_failed
from hf_finetune.pipeline.pretrain import pretrain
from hf_finetune.pipeline.publish import publish_run
from hf_finetune.pipeline.record import RunRecord, resumed
from hf_finetune.pipeline.run_folder import output_folder, plain_disk_errors
from hf_finetune.pipeline.save import save
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.pipeline.train import TrainedRun, train, trainer_arguments
from hf_finetune.pipeline.verify import verify
from hf_finetune.pretraining.config import Pretrain
from hf_finetune.training import precision
from hf_finetune.training.checkpoints import newest_whole
from hf_finetune.training.distributed import plain_peer_errors
from hf_finetune.training.probe import KernelChoice
from hf_finetune.utils.exit_status import notes_afterwards

# A run's own notes; those of the loaders below are said again here once all input has been found good.
logger = logging.getLogger("hf_finetune.run")


def run(recipe: Recipe, launch: Launch = Launch(), *, command: str | None = None) -> dict[str, Any] | None:
    """Train, evaluate, verify, document and, if asked, publish.

    Args:
        recipe: what to compute.
        launch: where to write, whether to resume.
        command: the command line that reproduces the run, for the card.

    Returns:
        The content of result.json, and its `folder`; None in all processes but the main one.

    Raises:
        InputError: bad data, checkpoint, fields or output folder, or no way to push; nothing was written.
        TrainingError: the loss or the weights are not finite, or the disk is full.
        StoppedBySignal: after a checkpoint; `launch.resume` goes on.
        GateError: a saved artifact does not reproduce the model.
        PushError: the Hub refused the finished run, or kept failing.
    """
    trained = train_recipe(recipe, launch, command=command)
    if trained.pretraining is not None and recipe.pretrain.compare:
        _run_without_pretraining(trained)
    return finish(trained)


def train_recipe(recipe: Recipe, launch: Launch, *, command: str | None = None) -> TrainedRun:
    """The first half of a run: all stages up to the last step. What cannot end well is refused before writing."""
    folder = output_folder(recipe.name, launch.output, resume=launch.resume)
    if recipe.hub.repo_id is not None:
        check_target(recipe.hub)
    run = prepare(recipe)
    if PartialState().is_main_process and recipe.pretrained_checkpoint is not None:
        run = replace(run, notes=(*run.notes, *start_overlaps(recipe.pretrained_checkpoint, run.data.splits)))
    if launch.num_processes not in (None, run.context.processes):
        raise InputError(f"--num-processes {launch.num_processes}: {run.context.processes} process(es) were started")
    record = RunRecord.of(run, command)
    if launch.resume and (folder / "recipe.json").exists():
        record = resumed(record, run, folder)
    elif launch.resume:
        logger.info("nothing to resume in %s: the run starts anew", folder)
    with plain_disk_errors(folder), plain_peer_errors(), precision.settings_restored():
        run, pretraining = pretrain(run, folder, record)
        trained = fit(run, folder, record)
    if pretraining is not None:
        trained.clock.note("pretrain_s", pretraining.seconds)
    return replace(trained, pretraining=pretraining)


def prepare(recipe: Recipe) -> PreparedRun:
    """Load and check everything that can be wrong, before anything is written.

    Raises:
        InputError: see the stages.
    """
    context = start(recipe)
    check_checkpoint(context)
    data = load_data(context)
    teachers = teachers_of(context, data.splits)
    check_teachers(teachers, context, data)
    model = build_model(context, data)
    trial = trial_network(context, model)
    origin = find_origin(context, model.network, trial)
    notes = (
        *data.splits.notes,
        *model.notes,
        *(() if teachers is None else teachers.notes),
        *unused_options(recipe),
        *([WITHOUT_ADAPTER.format(origin.base_changed)] if recipe.uses_adapter and origin.base_changed else []),
    )
    teacher_weights = None if teachers is None else teachers.weights
    run = PreparedRun(context, data, model, origin, teachers, teacher_weights, notes)
    check_run(run, trial)
    run = replace(run, notes=(*notes, *note_on_compared_rows(run)))
    narrow_last_layer(run)
    return run


def fit(run: PreparedRun, folder: Path, record: RunRecord, *, rehearsal: bool = False) -> TrainedRun:
    """From a prepared run to a trained one. The first thing written is recipe.json.

    Args:
        rehearsal: save no checkpoints, and leave the test rows alone.
    """
    clock, checkpoints = Stopwatch(), folder / "checkpoints"
    trainer_arguments(run, checkpoints)  # what they refuse is refused now
    # What the copies refuse is the first line.
    with notes_afterwards():
        for note in run.notes:
            logger.info(note)
        augmented = add_copies(run, clock)
    encoded = encode_rows(augmented, clock)
    network: nn.Module = run.model.network
    network.to(run.context.device)
    if run.context.searches_layers and record.layer_maps is None:
        with clock.measure("layer_search_s"):
            record = replace(record, layer_maps=search_layers(augmented, encoded.train))
    teacher = ask_teacher(augmented, record.layer_maps or (), clock, test=not rehearsal)
    resume_from = newest_whole(checkpoints)
    # The adapter goes on, kernels are chosen, what frozen layers give is cached, and the head is fitted.
    ready = make_ready(augmented, record, encoded, teacher, clock, resumes=resume_from is not None, rehearsal=rehearsal)
    write_start(ready, folder)
    trainer = train(ready, folder, clock, resume_from, rehearsal=rehearsal)
    return TrainedRun(run, ready, trainer, folder, clock)


def rehearse(run: PreparedRun, folder: Path, choice: KernelChoice) -> TrainedRun:
    """The training of a run as `run` does it, without its checkpoints: to see what it costs."""
    with precision.settings_restored():
        return fit(run, folder, replace(RunRecord.of(run), kernels=choice), rehearsal=True)


def finish(trained: TrainedRun) -> dict[str, Any] | None:
    """The second half of a run: what the main process alone does once the network is trained."""
    if not PartialState().is_main_process:
        return None
    folder, recipe = trained.folder, trained.run.recipe
    try:
        with plain_disk_errors(folder):
            artifacts = save(trained)
            evaluation = evaluate(trained)
            checks = verify(trained, artifacts, evaluation)
            result = document(trained, evaluation, checks)
            refuse_failed(checks)
            if not recipe.train.keep_checkpoints:
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            publish_run(folder, recipe.hub)
            return {**result, "folder": str(folder)}
    except KeyboardInterrupt:
        raise StoppedBySignal("stopped by a signal after training; --resume goes on from there") from None


def _run_without_pretraining(trained: TrainedRun) -> None:
    """Run the recipe without pretraining in DIR/without, for so many more epochs that it trains for as long in all."""
    recipe, without = trained.run.recipe, trained.folder / WITHOUT
    # Before the processes meet: none has begun it in this run.
    begun = without.exists()
    train, factor = longer_training(recipe.train, stage_seconds(trained))
    if (without / "result.json").exists():
        return
    logger.info("the same without pretraining, with %.3g times the epochs", factor)
    alone = replace(recipe, pretrain=Pretrain(), train=train, hub=replace(recipe.hub, repo_id=None))
    finish(train_recipe(alone, Launch(str(without), resume=begun)))
