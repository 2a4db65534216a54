"""The way of the data: recipe -> data -> model -> training -> evaluation -> parity gate -> card -> Hub.

    prepare    setup_context, load_data, build_model, check_run: nothing is written yet
               pretrain, where the recipe asks for it
    fit        add_copies, encode_rows, predict_with_teachers, add_adapter, choose_kernels, cache_activations, fit_head,
               train
    finalize   save, evaluate, verify, document, publish

Each stage has a file of its own. It takes the state that the stages before it built, and returns what it adds.
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
from hf_finetune.features.frozen_layers import TrainingRows
from hf_finetune.hub.push import check_target
from hf_finetune.pipeline.add_adapter import add_adapter, trial_network
from hf_finetune.pipeline.augment import add_copies
from hf_finetune.pipeline.build_model import build_model
from hf_finetune.pipeline.cache_activations import cache_activations
from hf_finetune.pipeline.check import check_checkpoint, check_run, check_teachers, note_on_compared_rows
from hf_finetune.pipeline.choose_kernels import choose_kernels
from hf_finetune.pipeline.comparison import WITHOUT, longer_training, stage_seconds
from hf_finetune.pipeline.context import Run, setup_context
from hf_finetune.pipeline.document import document
from hf_finetune.pipeline.encode_rows import encode_rows
from hf_finetune.pipeline.evaluate import evaluate
from hf_finetune.pipeline.fit_head import fit_head
from hf_finetune.pipeline.load_data import load_data
from hf_finetune.pipeline.origin import find_origin
from hf_finetune.pipeline.parity import refuse_failed
from hf_finetune.pipeline.pretrain import pretrain
from hf_finetune.pipeline.publish import publish_run
from hf_finetune.pipeline.record import RunRecord
from hf_finetune.pipeline.resume import resume_record
from hf_finetune.pipeline.run_folder import output_folder, plain_disk_errors
from hf_finetune.pipeline.run_setup import RunSetup
from hf_finetune.pipeline.save import save, save_start
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.pipeline.teacher_predictions import build_teachers, predict_with_teachers, search_layers
from hf_finetune.pipeline.train import TrainedRun, classifier_arguments, train
from hf_finetune.pipeline.verify import verify
from hf_finetune.pretraining.config import Pretrain
from hf_finetune.training import precision
from hf_finetune.training.checkpoints import newest_whole
from hf_finetune.training.distributed import plain_peer_errors
from hf_finetune.training.probe import KernelChoice
from hf_finetune.utils.exit_status import notes_afterwards

logger = logging.getLogger("hf_finetune.run")
WITHOUT_ADAPTER = (
    "adapter: only model/ is saved, with the adapter merged; adapter/ would need a checkpoint changed by {}"
)


def run(recipe: Recipe, launch: Launch = Launch(), *, command: str | None = None) -> dict[str, Any] | None:
    """Train, evaluate, verify, document and, if asked, publish.

    Args:
        recipe: what to compute.
        launch: where to write, and whether to resume.
        command: the command line that reproduces the run, for the card.

    Returns:
        The content of result.json, and its `folder`; None in all processes but the main one.

    Raises:
        InputError: bad data, checkpoint, fields or output folder, or no right to push; nothing was written.
        TrainingError: the loss or the weights are not finite, or the disk is full.
        StoppedBySignal: after a checkpoint, from which `launch.resume` continues.
        GateError: a saved artifact does not reproduce the model.
        PushError: the Hub refused the finished run, or kept failing.
    """
    trained = train_recipe(recipe, launch, command=command)
    if trained.pretraining is not None and recipe.pretrain.compare:
        _run_without_pretraining(trained)
    return finalize(trained)


def train_recipe(recipe: Recipe, launch: Launch, *, command: str | None = None) -> TrainedRun:
    """Take all stages up to the last training step. Bad input is refused before anything is written."""
    folder = output_folder(recipe.name, launch.output, resume=launch.resume)
    if recipe.hub.repo_id is not None:
        check_target(recipe.hub)
    run = prepare(recipe)
    if PartialState().is_main_process and recipe.pretrained_checkpoint is not None:
        run = replace(run, notes=(*run.notes, *start_overlaps(recipe.pretrained_checkpoint, run.data.splits)))
    if launch.num_processes not in (None, run.context.processes):
        raise InputError(f"--num-processes {launch.num_processes}: {run.context.processes} process(es) were started")
    record = RunRecord.from_run(run, command)
    if launch.resume and (folder / "recipe.json").exists():
        record = resume_record(record, run, folder)
    elif launch.resume:
        logger.info("nothing to resume in %s: the run starts anew", folder)
    with plain_disk_errors(folder), plain_peer_errors(), precision.settings_restored():
        run, pretraining = pretrain(run, folder, record)
        trained = fit(run, folder, record)
    if pretraining is not None:
        trained.clock.record("pretrain_s", pretraining.seconds)
    return replace(trained, pretraining=pretraining)


def prepare(recipe: Recipe) -> Run:
    """Load the input of a run and check all that can be wrong, before anything is written.

    Raises:
        InputError: see the stages.
    """
    context = setup_context(recipe)
    check_checkpoint(context)
    data = load_data(context)
    teachers = build_teachers(context, data.splits)
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
    run = Run(context, data, model, origin, teachers, notes)
    check_run(run, trial)
    return replace(run, notes=(*notes, *note_on_compared_rows(run)))


def fit(run: Run, folder: Path, record: RunRecord, *, dry_run: bool = False) -> TrainedRun:
    """Set up the training of a prepared run, and train. The first file written is recipe.json.

    Args:
        dry_run: save no checkpoints, and ignore the test rows.
    """
    clock, checkpoints = Stopwatch(), folder / "checkpoints"
    classifier_arguments(run, checkpoints)  # refuses unusable fields of train.extra before anything is written
    # The first line on stderr is an error of the copies, if there is one.
    with notes_afterwards():
        for note in run.notes:
            logger.info(note)
        augmented = add_copies(run, clock)
    encoded = encode_rows(augmented, clock)
    network: nn.Module = run.model.network
    network.to(run.context.device)
    record = search_layers(augmented, encoded.train, record, clock)
    teacher = predict_with_teachers(augmented, record, clock, dry_run=dry_run)
    rows = TrainingRows(run.data.inputs, encoded.train, encoded.validation)
    resume_from = newest_whole(checkpoints)
    setup = RunSetup(augmented, record, encoded, teacher, run.model.network, rows, folder, clock, resume_from, dry_run)
    setup = add_adapter(setup)
    setup = choose_kernels(setup)
    setup = cache_activations(setup)
    if not run.recipe.uses_adapter:
        setup = fit_head(setup)
    save_start(setup)
    return TrainedRun(run, setup, train(setup))


def dry_run(run: Run, folder: Path, choice: KernelChoice) -> TrainedRun:
    """Train as `run` does, but save no checkpoints: to measure its cost, or to try a variant."""
    with precision.settings_restored():
        return fit(run, folder, replace(RunRecord.from_run(run), kernels=choice), dry_run=True)


def finalize(trained: TrainedRun) -> dict[str, Any] | None:
    """Take the stages after training, in the main process only."""
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
        raise StoppedBySignal("stopped by a signal after training; --resume continues from there") from None


def _run_without_pretraining(trained: TrainedRun) -> None:
    """Run the recipe without pretraining in DIR/without, for so many more epochs that it takes as long in all."""
    recipe, without = trained.run.recipe, trained.folder / WITHOUT
    # `stage_seconds` waits for all processes; no process has created the folder before.
    resume = without.exists()
    train, factor = longer_training(recipe.train, stage_seconds(trained))
    if (without / "result.json").exists():
        return
    logger.info("the same without pretraining, with %.3g times the epochs", factor)
    plain = replace(recipe, pretrain=Pretrain(), train=train, hub=replace(recipe.hub, repo_id=None))
    finalize(train_recipe(plain, Launch(str(without), resume=resume)))
