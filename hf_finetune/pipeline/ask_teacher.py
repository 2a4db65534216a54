"""Ask the teachers of a run for their predictions and features of its rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset

from hf_finetune.data.loading import Splits
from hf_finetune.data.provenance import teacher_overlaps
from hf_finetune.distillation import report
from hf_finetune.distillation.config import Distill, LogitKind
from hf_finetune.distillation.features import layer_search
from hf_finetune.distillation.features.layer_search import LayerMap
from hf_finetune.distillation.features.pair import NetworkPair
from hf_finetune.distillation.features.teacher_features import FeatureDistillation, feature_distillation
from hf_finetune.distillation.predictions import TeacherPredictions, predict_rows
from hf_finetune.distillation.teachers.loading import Teachers
from hf_finetune.pipeline.context import PreparedRun, RunContext
from hf_finetune.pipeline.stopwatch import Stopwatch

logger = logging.getLogger("hf_finetune.run")


@dataclass(frozen=True)
class TeacherOutput:
    """What the teachers of a run predict, and what else its student learns from them."""

    predictions: TeacherPredictions
    features: FeatureDistillation | None
    """How the student's features are compared with the teacher's; None: not at all."""

    def seconds_in_training(self, *, rehearsal: bool) -> float:
        """What the teachers took while the student trained. A rehearsal counts features as the student's."""
        online, features = self.predictions.online, self.features
        features_s = 0.0 if features is None or rehearsal else features.timer.seconds
        return features_s + (0.0 if online is None else online.timer.seconds)


def teachers_of(context: RunContext, splits: Splits) -> Teachers | None:
    """The recipe's teachers, not loaded yet; None: it has none."""
    recipe, objective = context.recipe, context.recipe.objective
    if not isinstance(objective, Distill):
        return None
    return Teachers(
        objective.teachers,
        splits.labels,
        recipe.kind,
        trust_remote_code=recipe.model.trust_remote_code,
        precision=objective.teacher_precision,
        all_logits=any(isinstance(kind, LogitKind) and kind.needs_all_logits for kind in objective.kinds),
    )


def network_pair(run: PreparedRun) -> NetworkPair:
    """Return the student and its only teacher, whose features are compared.

    Raises:
        InputError: the teacher is no network.
    """
    assert run.teachers is not None, "a teacher's features are compared"
    return NetworkPair(run.model.network, run.data.inputs, run.teachers.network)


def search_layers(run: PreparedRun, train_rows: Dataset) -> list[LayerMap]:
    """Which layers of student and teacher go together; the main process decides for all.

    Args:
        train_rows: encoded.

    Returns:
        See `distillation.features.layer_search.search_layers`.
    """
    layer_maps: list[Any] = [None]
    if PartialState().is_main_process:
        layer_maps[0] = layer_search.search_layers(
            network_pair(run), run.recipe.distillation_kinds, train_rows, seed=run.recipe.train.seed
        )
    return broadcast_object_list(layer_maps)[0]


def ask_teacher(
    run: PreparedRun, layer_maps: Sequence[LayerMap], clock: Stopwatch, *, test: bool
) -> TeacherOutput | None:
    """What the run's teachers predict for its rows, and a warning where that is of no use; None: it has no teacher.

    Args:
        layer_maps: see `search_layers`; none where none are searched.
        test: predict the test rows as well, and look into what the teachers were trained on.
    """
    if run.teachers is None:
        return None
    splits, teachers, features = run.data.splits, run.teachers, None
    budget_gb, online = run.recipe.batching.cache_gb, run.context.augments_online
    rows = {"train": splits.train, "validation": splits.validation}
    if test and splits.test is not None:
        rows["test"] = splits.test
    with clock.measure("teacher_s"):
        # The others find what the first one leaves.
        with PartialState().main_process_first():
            predictions = predict_rows(teachers.members, rows, budget_gb=budget_gb, online=online)
            if run.recipe.compares_features:
                features = feature_distillation(
                    network_pair(run),
                    layer_search.with_layers(run.recipe.distillation_kinds, layer_maps),
                    splits.train,
                    seed=run.recipe.train.seed,
                    budget_gb=budget_gb,
                    online=online,
                )
        teachers.release()
        if test and PartialState().is_main_process:
            predictions = replace(predictions, overlaps=tuple(teacher_overlaps(predictions.names, splits)))
        for doubt in report.doubts(predictions, rows):
            logger.warning(doubt)
    return TeacherOutput(predictions, features)
