"""The stages of a run: recipe -> data -> model -> training -> evaluation -> parity gate -> card -> Hub.

    prepare    setup_context, load_data, choose_length, choose_pooling, choose_long, choose_layer, build_model,
               check_run; nothing is written yet
               pretrain, if the recipe asks for it
    fit        add_copies, encode_rows, predict_with_teachers, add_adapter, choose_kernels, cache_activations, fit_head,
               train
    finalize   save, evaluate, verify, document, push

Each stage is a function. Most have a file of their own.

    prepare    a stage takes the finished parts of a `Run`, and returns the next part
    fit        the stages up to predict_with_teachers take the `Run`; those from add_adapter to fit_head take the
               `RunSetup`, and return it with a part replaced
    finalize   a stage takes the `TrainedRun`, and writes files or returns what the next ones report
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from accelerate import PartialState
from torch import nn

from hf_finetune.config.recipe import Launch, Recipe
from hf_finetune.config.rules import check as check_recipe
from hf_finetune.config.rules import unused_options
from hf_finetune.data.loading import Splits
from hf_finetune.data.provenance import start_overlaps
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.features.frozen_layers import TrainingRows
from hf_finetune.hub.push import check_target
from hf_finetune.pipeline import check, comparison
from hf_finetune.pipeline.add_adapter import add_adapter, trial_network
from hf_finetune.pipeline.augment import add_copies
from hf_finetune.pipeline.build_model import build_model
from hf_finetune.pipeline.cache_activations import cache_activations
from hf_finetune.pipeline.choose_kernels import choose_kernels, default_kernels
from hf_finetune.pipeline.choose_layer import MOST_ROWS as MOST_LAYER_ROWS
from hf_finetune.pipeline.choose_layer import choose_layer
from hf_finetune.pipeline.choose_length import choose_length
from hf_finetune.pipeline.choose_long import choose_long
from hf_finetune.pipeline.choose_pooling import MOST_ROWS, choose_pooling
from hf_finetune.pipeline.classical.run import run_classical
from hf_finetune.pipeline.context import ClassicalRun, Run, RunInput, setup_context
from hf_finetune.pipeline.document import document
from hf_finetune.pipeline.encode_rows import encode_rows
from hf_finetune.pipeline.evaluate import Evaluation, Scoring, evaluate, predict, save_predictions
from hf_finetune.pipeline.fit_head import fit_head
from hf_finetune.pipeline.load_data import load_data, load_splits
from hf_finetune.pipeline.measure_row import measure_row
from hf_finetune.pipeline.origin import find_origin
from hf_finetune.pipeline.out_of_fold import OutOfFold, cross_validate, folds_of, on_all_rows
from hf_finetune.pipeline.parity import recorded_checks, refuse_failed, verifying
from hf_finetune.pipeline.pretrain import pretrain
from hf_finetune.pipeline.push import push_if_asked
from hf_finetune.pipeline.record import RunRecord
from hf_finetune.pipeline.resume import resume_record
from hf_finetune.pipeline.run_folder import (
    has_checkpoints,
    is_finished,
    output_folder,
    owned_folder,
    plain_disk_errors,
    remove_leftovers,
)
from hf_finetune.pipeline.run_setup import RunSetup
from hf_finetune.pipeline.save import save, save_start
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.pipeline.teacher_predictions import build_teachers, predict_with_teachers, search_layers
from hf_finetune.pipeline.track import results_for_trackers, run_trackers
from hf_finetune.pipeline.train import TrainedRun, check_arguments, train
from hf_finetune.pretraining.config import Pretrain
from hf_finetune.training import precision
from hf_finetune.training.checkpoints import newest_whole
from hf_finetune.training.distributed import plain_peer_errors
from hf_finetune.training.probe import KernelChoice
from hf_finetune.training.trackers.base import NO_TRACKERS, RunTrackers
from hf_finetune.training.trackers.config import check_installed
from hf_finetune.utils.console import Progress
from hf_finetune.utils.core_sharing import shared_cores
from hf_finetune.utils.exit_status import is_main_process, notes_afterwards
from hf_finetune.utils.experimental import experimental_notes
from hf_finetune.utils.files import discard
from hf_finetune.utils.messages import counted, silenced

logger = logging.getLogger("hf_finetune.run")
WITHOUT_ADAPTER = (
    "adapter: only model/ is saved, with the adapter merged; adapter/ would need a checkpoint changed by {}"
)


@shared_cores()
def run(recipe: Recipe, launch: Launch = Launch(), *, command: str | None = None) -> dict[str, Any] | None:
    """Run a recipe of a single run. Arguments, result and errors are those of `search.run.run`, which users call."""
    if recipe.effective_method == "classical":
        return run_classical(load_classical(recipe, launch), launch, command=command)
    with trained_run(recipe, launch, command=command) as trained:
        if trained.pretraining is not None and recipe.pretrain.compare:
            _run_without_pretraining(trained)
        return finalize(trained)


def load_classical(recipe: Recipe, launch: Launch = Launch()) -> ClassicalRun:
    """Check a recipe of method classical and the folder of its run, and load its rows.

    Raises:
        InputError: see `config.rules.check` and `load_splits`; or the rows are words with tags.
    """
    output_folder(recipe.name, launch.output, resume=launch.resume)
    if recipe.hub.repo_id is not None:
        check_target(recipe.hub)
    check_recipe(recipe)
    with Progress("read the data", quiet=True):
        run = ClassicalRun(recipe, load_splits(recipe.data, group=recipe.evaluate.group), unused_options(recipe))
    run.task.refuse("method", is_set=True)
    return run


@contextmanager
def trained_run(recipe: Recipe, launch: Launch, *, command: str | None = None) -> Iterator[TrainedRun]:
    """Run all stages up to the last training step, and own the folder of the run until the block ends.

    Bad input is refused before anything is written.
    """
    if is_main_process():  # which tells the others its folder later
        output_folder(recipe.name, launch.output, resume=launch.resume)
    if recipe.hub.repo_id is not None:
        check_target(recipe.hub)
    prepared = prepare(recipe)
    if PartialState().is_main_process and recipe.pretrained_checkpoint is not None:
        overlaps = start_overlaps(recipe.pretrained_checkpoint, prepared.data.splits)
        prepared = replace(prepared, notes=(*prepared.notes, *overlaps))
    processes = prepared.context.processes
    if launch.num_processes not in (None, processes):
        raise InputError(
            f"--num-processes {launch.num_processes}: {counted(processes, 'process was', 'processes were')} started"
        )
    with train_prepared(prepared, launch, command=command) as trained:
        yield trained


@contextmanager
def train_prepared(prepared: Run, launch: Launch, *, command: str | None = None) -> Iterator[TrainedRun]:
    """Train a prepared run, and own its folder until the block ends."""
    recipe, record = prepared.recipe, RunRecord.from_run(prepared, command)
    with plain_peer_errors(), ExitStack() as stack:
        # The first line on stderr is what refuses the resumption, not whose lock was taken over.
        with notes_afterwards():
            folder = stack.enter_context(owned_folder(recipe.name, launch.output, resume=launch.resume))
            if folder.is_unfinished:
                record = resume_record(record, prepared, folder.path)
            elif launch.resume:
                logger.info("nothing to resume in %s: the run starts anew", folder.path)
        trackers = stack.enter_context(run_trackers(prepared, folder.path))
        yield _train(prepared, folder.path, record, trackers)


def _train(prepared: Run, folder: Path, record: RunRecord, trackers: RunTrackers) -> TrainedRun:
    try:
        with plain_disk_errors(folder), precision.settings_restored():
            prepared, pretraining = pretrain(prepared, folder, record, trackers)
            prepared, predicted = _cross_validate(prepared, folder, record)
            trained = fit(prepared, folder, record, trackers)
    except KeyboardInterrupt:
        # Between two stages, where nothing waits for the next step.
        if not has_checkpoints(folder):
            raise
        raise StoppedBySignal("stopped by a signal; --resume continues from the last checkpoint") from None
    if pretraining is not None:
        trained.clock.record("pretrain_s", pretraining.seconds)
    return replace(trained, pretraining=pretraining).settled(predicted)


def _cross_validate(prepared: Run, folder: Path, record: RunRecord) -> tuple[Run, OutOfFold | None]:
    """Predict all rows out of fold, and return the run that trains on all of them; without folds the run as it is."""
    if prepared.recipe.evaluate.folds is None:
        return prepared, None
    if not (folder / "recipe.json").exists():
        record.write(folder)
    whole = on_all_rows(prepared)
    row_s = cache(lambda: measure_row(whole) if prepared.row_s is None else prepared.row_s)
    logits = partial(_trained_logits, whole, row_s)
    return whole, cross_validate(prepared.data.splits, folds_of(prepared), folder, logits)


def _trained_logits(
    whole: Run, row_s: Callable[[], float], splits: Splits, is_held_out_N: np.ndarray
) -> tuple[Any, float]:
    """Train on the training rows of other splits; return logits of the validation rows, and the seconds they take.

    Args:
        whole: the run on all rows, which are encoded.
        row_s: measures the seconds to predict a row. From cached activations it takes a fraction of them.
        is_held_out_N: which of these are the validation rows.
    """
    assert whole.encoded is not None, "see `on_all_rows`"
    train, validation = (whole.encoded[0].select(np.flatnonzero(side)) for side in (~is_held_out_N, is_held_out_N))
    with silenced(), TemporaryDirectory() as folder:
        # The head is fitted anew: one from a simpler run has seen the rows that are held out.
        variant = replace(whole.variant(splits=splits), encoded=(train, validation), is_noted=True, start_heads=())
        variant = replace(variant, model=build_model(variant.context, variant.data))
        trained = fit_dry(variant, Path(folder), KernelChoice(default_kernels(variant)))
        logits = trained.setup.rows.validation_logits(trained.network, batch_size=variant.eval_batch_size)
        if logits is not None:
            return logits, len(logits) * row_s()
        started = time.perf_counter()
        return predict(trained.network, variant, splits.validation), time.perf_counter() - started


def prepare(recipe: Recipe) -> Run:
    """Load the input of a run and check it, before anything is written.

    Raises:
        InputError: see the stages.
    """
    with Progress("read the data and the checkpoint", quiet=True):
        return with_network(load_input(recipe))


def load_input(
    recipe: Recipe,
    *,
    features: Sequence[str] = (),
    compared_rows: Callable[[], int] = lambda: MOST_ROWS,
    layer_rows: int = MOST_LAYER_ROWS,
) -> RunInput:
    """Load the rows and teachers of a run, and check what needs no network.

    Args:
        features: see `load_data`.
        compared_rows: on which there is time to compare what the head may read, see `choose_pooling`.
        layer_rows: those on which layers are compared, see `choose_layer`.

    Raises:
        InputError: see the stages.
    """
    if recipe.effective_method == "classical":
        got = "got 'classical': it has no network; `hf-finetune train` fits it"
        raise InputError(f"method: expected full, lora, top or head here, {got}")
    check_installed(recipe.train.trackers)
    if recipe.evaluate.extra:
        from hf_finetune.evaluation.extra_metrics import check_extra_metrics  # takes seconds to import

        check_extra_metrics(recipe.evaluate.extra, trust_remote_code=recipe.model.trust_remote_code)
    context = setup_context(recipe)
    check.check_checkpoint(context)
    context, data = load_data(context, features=features)
    check.check_task(context, data)
    context, length_note = choose_length(context, data)
    context, pooling_choice = choose_pooling(context, data, most_rows=compared_rows())
    context, data, long_choice = choose_long(context, data)
    teachers = build_teachers(context, data)
    check.check_teachers(teachers, context, data)
    of_long = None if long_choice is None else f"--long auto: {long_choice.way.name}: {long_choice.why}"
    chosen = (of_long, None if pooling_choice is None else str(pooling_choice), length_note)
    notes = (*data.splits.notes, *(note for note in chosen if note is not None))
    long, pooling = (None if choice is None else choice.to_dict() for choice in (long_choice, pooling_choice))
    loaded = RunInput(context, data, teachers, long, pooling, notes)
    return choose_layer(loaded, most_rows=layer_rows)[0]


def with_network(loaded: RunInput) -> Run:
    """Build the network of a run, and check that it fits the rows.

    Raises:
        InputError: see the stages.
    """
    context, data, teachers, recipe = loaded.context, loaded.data, loaded.teachers, loaded.context.recipe
    model = build_model(context, data)
    trial = trial_network(context, model)
    origin = find_origin(context, model.network, trial)
    notes = (
        *loaded.notes,
        *model.notes,
        *(() if teachers is None else teachers.notes),
        *unused_options(recipe, used=data.task.always_used),
        *experimental_notes(recipe),
        *([WITHOUT_ADAPTER.format(origin.base_changed)] if recipe.uses_adapter and origin.base_changed else []),
    )
    prepared = Run(context, data, model, origin, teachers, notes, loaded.long_choice, loaded.pooling_choice)
    check.check_run(prepared, trial)
    Scoring.of(prepared).extra_metrics()
    return replace(prepared, notes=(*notes, *check.note_on_compared_rows(prepared)))


def fit(
    prepared: Run, folder: Path, record: RunRecord, trackers: RunTrackers = NO_TRACKERS, *, dry_run: bool = False
) -> TrainedRun:
    """Set up the training of a prepared run, and train. The first file written is recipe.json.

    Args:
        dry_run: save no checkpoints, and ignore the test rows.

    Raises:
        InputError: `train.extra` has an unusable field, or an augmented copy cannot be made.
        StoppedBySignal: see `train`.
        TrainingError: see `train`.
    """
    clock = Stopwatch()
    check_arguments(prepared)
    # If a copy cannot be made, the error is the first line on stderr, before the notes.
    with notes_afterwards():
        # Those of a variant were logged with the first.
        for note in () if prepared.is_noted else prepared.notes:
            logger.info(note)
        augmented = add_copies(prepared, clock)
    encoded = encode_rows(augmented, clock)
    network: nn.Module = prepared.model.network
    network.to(prepared.context.device)
    record = search_layers(augmented, encoded.train, record, clock)
    teacher = predict_with_teachers(augmented, record, clock, dry_run=dry_run)
    setup = RunSetup(
        run=augmented,
        record=record,
        encoded=encoded,
        teacher=teacher,
        network=prepared.model.network,
        rows=TrainingRows(prepared.data.inputs, encoded.train, encoded.validation),
        folder=folder,
        clock=clock,
        resume_from=newest_whole(folder / "checkpoints"),
        dry_run=dry_run,
        trackers=trackers,
    )
    setup = add_adapter(setup)
    setup = choose_kernels(setup)
    setup = cache_activations(setup)
    if not prepared.recipe.uses_adapter:
        setup = fit_head(setup)
    save_start(setup)
    return TrainedRun(prepared, setup, *train(setup))


def fit_dry(prepared: Run, folder: Path, choice: KernelChoice) -> TrainedRun:
    """Train without saving checkpoints, to measure the cost of a run or to try a variant."""
    record = replace(RunRecord.from_run(prepared), kernels=choice)
    with precision.settings_restored():
        return fit(prepared, folder, record, dry_run=True)


def finalize(trained: TrainedRun, known: Evaluation | None = None) -> dict[str, Any] | None:
    """Run the stages after training, in the main process only.

    Args:
        known: splits that are scored already.
    """
    if not PartialState().is_main_process:
        return None
    folder, recipe = trained.folder, trained.run.recipe
    try:
        with plain_disk_errors(folder):
            with Progress("save"):
                artifacts = save(trained)
            evaluation = evaluate(trained, known)
            with verifying(trained, artifacts, evaluation) as checks, Progress("write the card"):
                result = document(trained, evaluation, checks)
            trained.setup.trackers.log_results(results_for_trackers(result, folder))
            refuse_failed(recorded_checks(result))
            if not recipe.train.keep_checkpoints:
                discard(folder / "checkpoints")
    except KeyboardInterrupt:
        raise StoppedBySignal("stopped by a signal after training; --resume continues from there") from None
    push_if_asked(folder, recipe.hub)
    return {**result, "folder": str(folder)}


def set_aside(trained: TrainedRun, evaluation: Evaluation) -> dict[str, Any]:
    """Save a run that another one has beaten on validation rows: without test rows, baselines, parity gate and plots.

    Returns:
        The content of its result.json.
    """
    with plain_disk_errors(trained.folder):
        save(trained)
        save_predictions(trained.folder, evaluation)
        result = document(trained, evaluation, dict, plots=False)
        discard(trained.folder / "checkpoints")
    return result


def _run_without_pretraining(trained: TrainedRun) -> None:
    """Run the recipe without pretraining in DIR/without. Its longer training takes as long as both stages did."""
    recipe, without = trained.run.recipe, trained.folder / comparison.WITHOUT
    # Before `stage_seconds`, which waits for all processes: after it another process may have created the folder.
    resume = without.exists()
    longer, factor = comparison.longer_training(recipe.train.untracked(), comparison.stage_seconds(trained))
    if is_finished(without):
        if PartialState().is_main_process:
            remove_leftovers(without)
        return
    logger.info("the same without pretraining, with %.3g times the epochs", factor)
    plain = replace(recipe, pretrain=Pretrain(), train=longer, hub=replace(recipe.hub, repo_id=None))
    with trained_run(plain, Launch(str(without), resume=resume)) as compared:
        finalize(compared)
