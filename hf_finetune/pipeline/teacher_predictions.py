"""Predict the rows of a run with its teachers, and record the features that the student learns from."""

import logging
from dataclasses import dataclass, replace
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset

from hf_finetune.data.provenance import teacher_overlaps
from hf_finetune.distillation import report
from hf_finetune.distillation.config import Distill, LogitKind
from hf_finetune.distillation.feature_matching import layer_search
from hf_finetune.distillation.feature_matching.pair import NetworkPair
from hf_finetune.distillation.feature_matching.teacher_features import FeatureDistillation, feature_distillation
from hf_finetune.distillation.predictions import TeacherPredictions, predict_rows
from hf_finetune.distillation.teachers.loading import Teachers
from hf_finetune.pipeline.context import Run, RunContext, RunData
from hf_finetune.pipeline.record import RunRecord
from hf_finetune.pipeline.stopwatch import Stopwatch

logger = logging.getLogger("hf_finetune.run")


@dataclass(frozen=True)
class TeacherOutput:
    """The output of the teachers from which a student learns."""

    predictions: TeacherPredictions
    features: FeatureDistillation | None
    """None: the student learns only from predictions."""

    def seconds_in_training(self, *, dry_run: bool) -> float:
        """Return the seconds of the teachers while the student trains.

        In a dry run the features count as the student's.
        """
        sources = (self.predictions.online, None if dry_run else self.features)
        return sum((source.timer.seconds for source in sources if source is not None), 0.0)


def build_teachers(context: RunContext, data: RunData) -> Teachers | None:
    """Return the recipe's teachers, not loaded yet, or None."""
    recipe, objective = context.recipe, context.recipe.objective
    if not isinstance(objective, Distill):
        return None
    return Teachers(
        objective.teachers,
        data.task,
        recipe.kind,
        trust_remote_code=recipe.model.trust_remote_code,
        precision=objective.teacher_precision,
        # The most likely classes say all of a softmax only.
        all_logits=data.task.activation != "softmax"
        or any(isinstance(kind, LogitKind) and kind.needs_all_logits for kind in objective.kinds),
        limits=context.checkpoint.limits,
    )


def network_pair(run: Run) -> NetworkPair:
    """Return the student and its only teacher, whose features are compared.

    Raises:
        InputError: the teacher is no network.
    """
    assert run.teachers is not None, "a teacher's features are compared"
    return NetworkPair(run.model.network, run.data.inputs, run.teachers.network)


def search_layers(run: Run, train_rows: Dataset, record: RunRecord, clock: Stopwatch) -> RunRecord:
    """Add the pairs of student and teacher layers to the record, where the recipe searches them and it has none.

    The main process decides for all, see `distillation.feature_matching.layer_search.search_layers`.

    Args:
        train_rows: encoded rows.
    """
    if not run.context.searches_layers or record.layer_maps is not None:
        return record
    layer_maps: list[Any] = [None]
    with clock.measure("layer_search_s"):
        if PartialState().is_main_process:
            layer_maps[0] = layer_search.search_layers(
                network_pair(run), run.recipe.distillation_kinds, train_rows, seed=run.recipe.train.seed
            )
        return replace(record, layer_maps=broadcast_object_list(layer_maps)[0])


def predict_with_teachers(run: Run, record: RunRecord, clock: Stopwatch, *, dry_run: bool) -> TeacherOutput | None:
    """Return the teachers' output for all rows, or None without a teacher. Warn of predictions that are of little use.

    Args:
        record: with the layer maps, see `search_layers`.
        dry_run: skip the test rows, and the search for rows that the teachers were trained on.
    """
    if run.teachers is None:
        return None
    splits, teachers, features = run.data.splits, run.teachers, None
    budget_gb, online = run.recipe.batching.cache_gb, run.context.augments_online
    rows = {"train": splits.train, "validation": splits.validation}
    if not dry_run and splits.test is not None:
        rows["test"] = splits.test
    with clock.measure("teacher_s"):
        # The other processes read what the main one caches.
        with PartialState().main_process_first():
            predictions = predict_rows(
                teachers.members, rows, budget_gb=budget_gb, online=online, activation=run.data.task.activation
            )
            if run.recipe.compares_features:
                features = feature_distillation(
                    network_pair(run),
                    layer_search.with_layers(run.recipe.distillation_kinds, record.layer_maps or ()),
                    splits.train,
                    seed=run.recipe.train.seed,
                    budget_gb=budget_gb,
                    online=online,
                )
        teachers.release()
        if not dry_run and PartialState().is_main_process:
            predictions = replace(predictions, overlaps=tuple(teacher_overlaps(predictions.names, splits)))
        for doubt in report.doubts(run.data.task, predictions, rows):
            logger.warning(doubt)
    return TeacherOutput(predictions, features)
