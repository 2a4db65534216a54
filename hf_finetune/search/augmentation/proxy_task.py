"""The proxy task of a search: train a few steps from a shared start with a policy, and score held-out training rows.

Trials are cheap: the checkpoint is loaded once and its head fitted once, the lower layers are frozen, large images have
half the size, and the activations of the frozen layers on the scored rows are computed once.

Legend: N rows, C classes, D features.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from hf_finetune.augmentation.augmenter import Augmenter, population_of
from hf_finetune.augmentation.compose import Augmentation
from hf_finetune.augmentation.mixing import Mixing
from hf_finetune.augmentation.online import AugmentedRows, MixedRows, collate_mixed
from hf_finetune.augmentation.operations import ImageBatch, TextBatch
from hf_finetune.data.batching import StepBatches
from hf_finetune.data.duplicates import first_occurrences, first_sources, row_digests
from hf_finetune.data.image_processing import check_augmentable
from hf_finetune.data.inputs import ImageInputs, Rows, columns_of, with_labels
from hf_finetune.data.labels import labels_of
from hf_finetune.data.loading import Splits
from hf_finetune.data.sampling import class_draw, classes_of
from hf_finetune.data.splits import SEED_STREAM_WITHIN_TRAIN
from hf_finetune.data.targets.choose import targets_of
from hf_finetune.errors import InputError
from hf_finetune.evaluation import calibration
from hf_finetune.evaluation.logits import autocast_to, evaluating, to_device
from hf_finetune.features.prefix import NoBoundary, Prefix, rows_of
from hf_finetune.models.freezing import frozen_layers, train_top
from hf_finetune.models.modules import classification_layer, classification_layers, encoder_layers
from hf_finetune.models.patches import Shrink, shrink_for, takes_sizes
from hf_finetune.pipeline.batch_plan import micro_batch
from hf_finetune.pipeline.fit_head import fit_settings, head_weights, init_head
from hf_finetune.pipeline.optimization import shortcuts
from hf_finetune.pipeline.run import prepare
from hf_finetune.pipeline.training_loss import class_weights, training_loss
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.tasks.base import HeadFit
from hf_finetune.training.input_mixing import mixed_inputs
from hf_finetune.training.optim.config import AdamW
from hf_finetune.training.optim.rate_groups import Rates, rate_groups
from hf_finetune.training.warm_start import MOST_ROWS, head_features

TOP_LAYERS = 2
"""Layers that a trial trains together with the head; only the head if the recipe's method is head."""
LEARNING_RATES = {"text-classification": 3e-4, "image-classification": 1e-4}
"""Learning rates of trials. The one for images is above a run's, so that few steps show the effect of many."""
SCORED_SHARE, MAX_SCORED = 1 / 3, 256
"""Share and largest number of training rows held out to score trials."""
SCORING_BATCH_SIZE = 32
MIN_SIDE_TO_HALVE = 128
"""In pixels; smaller images keep their size."""


@dataclass(frozen=True)
class Score:
    """Result of a trial on the scored rows."""

    value: float
    """Of classes the negative log loss in nats at the optimal temperature. It is finer than accuracy, and a model that
    is merely less confident gains nothing. Of tags and numbers `judged`."""
    judged: float
    """`Task.judged_by`."""
    seconds: float


@dataclass(frozen=True)
class Stage:
    """Steps of a trial with one policy."""

    steps: int
    operations: tuple[Augmentation, ...] = ()
    """Augment the rows."""
    mix: tuple[Mixing, ...] = ()
    """Mix the rows of a batch."""


class ProxyTask:
    """Loads the shared start, and runs trials from it.

    Raises:
        InputError: see `pipeline.run.prepare`; or there are too few training rows to hold some out, or the images
            cannot be augmented.
    """

    def __init__(self, variant: RecipeVariant) -> None:
        recipe, prepared = variant.recipe, prepare(variant.for_proxy_task().recipe)
        self.task = task = prepared.data.task
        task.refuse("data.augment", is_set=not task.augments)
        if prepared.metric not in task.compared_by:
            expected = f"{' or '.join(task.compared_by)}, whose differences have intervals"
            raise InputError(f"evaluate.metric: expected {expected}, got {prepared.metric!r}")
        splits, self.inputs, self.seed = prepared.data.splits, prepared.data.inputs, recipe.train.seed
        if isinstance(self.inputs, ImageInputs):
            check_augmentable(self.inputs.processor, splits.train["image"], "data.augment, which the search chooses")
        self.prepared, self.model = prepared, prepared.model.network
        network: nn.Module = self.model
        network.to(prepared.context.device)
        labels_N = labels_of(splits.train)
        is_scored_N = _hold_out(splits, labels_N, recipe.data.split_seed)
        self.fit_rows = splits.train.select(np.flatnonzero(~is_scored_N))
        self.scored_labels = labels_N[is_scored_N]
        self.population = population_of(self.fit_rows, splits.labels)
        self.encoded = encoded = self.inputs.encode(splits.train)
        self.train_rows = encoded.select(np.flatnonzero(~is_scored_N))
        batches = micro_batch(prepared)
        self.micro_batch, self.rows_per_step = batches.rows, batches.rows_per_step
        self._shrink, self.sides = self._half_size()
        count = len(encoder_layers(self.model))
        train_top(self.model, 0 if recipe.effective_method == "head" else min(TOP_LAYERS, count))
        self._fit_head()
        self._start = {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}
        self._prefix: Prefix | None = None
        self._scored = list(self._scoring_batches(encoded.select(np.flatnonzero(is_scored_N))))

    @property
    def one_head(self) -> bool:
        """Whether the fitted head of a run is the same for all seeds."""
        fitted = {name for name, module in self.model.named_modules() if module in classification_layers(self.model)}
        return set(self.prepared.model.fresh) <= fitted and len(self.prepared.data.splits.train) <= MOST_ROWS

    def sample(self) -> TextBatch | ImageBatch:
        """Return a batch of two training rows, as operations get them."""
        raw = self.train_rows[:2]
        labels = np.asarray(raw["label"])
        if isinstance(self.inputs, ImageInputs):
            return ImageBatch(self.inputs.pixels(raw["image"]), labels, self.population)
        return TextBatch(raw["text"], raw.get("text_pair"), labels, self.population)

    def run(self, stages: Sequence[Stage]) -> Score:
        """Train from the shared start, and score. The same stages give the same score."""
        started = time.perf_counter()
        with torch.random.fork_rng(devices=[]), shortcuts(self.prepared.context).use(self.model):
            torch.manual_seed(self.seed)
            with self.all_layers():
                self._train(stages)
            logits_NC = self.logits()
        judged = self.task.epoch_values(self.scored_labels, logits_NC)[self.task.judged_by]
        value = judged
        if self.task.has_classes:
            value = -calibration.least_log_loss(self.scored_labels, logits_NC)
        return Score(value, judged, seconds=time.perf_counter() - started)

    def measure(self, operations: tuple[Augmentation, ...], steps: int = 2) -> tuple[float, float]:
        """Measure the seconds of a step, and of the rest of a trial."""
        self.run([Stage(1, operations)])
        rest = self.run([]).seconds
        return max(self.run([Stage(steps, operations)]).seconds - rest, 1e-3) / steps, rest

    def all_layers(self) -> AbstractContextManager[None]:
        """Run all layers on input embeddings, which otherwise are taken for cached activations of the scored rows."""
        return nullcontext() if self._prefix is None else self._prefix.idle()

    def _train(self, stages: Sequence[Stage]) -> None:
        model, prepared = self.model, self.prepared
        device, autocast = prepared.context.device, prepared.context.autocast
        model.load_state_dict(self._start, strict=False)
        lr, loss = LEARNING_RATES[prepared.recipe.task], training_loss(prepared)
        groups = rate_groups(
            model, lr=lr, weight_decay=prepared.recipe.train.weight_decay, rates=Rates(fresh=prepared.model.fresh)
        )
        # A constant rate: the first steps of a long trial equal a short one.
        optimizer = AdamW().build(groups, lr)
        model.train()
        steps = self._steps()
        collate = partial(with_labels, self._collate)
        for stage in stages:
            views = AugmentedRows(self.train_rows, self.inputs, Augmenter(stage.operations, self.seed, self.population))
            data = MixedRows(views, self.seed) if stage.mix else views
            collate_stage = partial(collate_mixed, stage.mix, collate) if stage.mix else collate
            for epoch, rows in itertools.islice(steps, stage.steps):
                data.set_epoch(epoch)
                for part in np.array_split(rows, self._micro_batches(len(rows), mixed=bool(stage.mix))):
                    batch = to_device(collate_stage(data.__getitems__(part.tolist())), device)
                    if "partners" in batch:
                        batch = mixed_inputs(model, batch)
                    labels_B = batch.pop("labels")
                    with autocast_to(autocast, device):
                        logits_BC = model(**batch).logits
                    (loss(logits_BC, labels_B) / len(rows)).backward()
                nn.utils.clip_grad_norm_(model.parameters(), prepared.recipe.train.max_grad_norm or float("inf"))
                optimizer.step()
                optimizer.zero_grad()

    def _micro_batches(self, rows: int, *, mixed: bool) -> int:
        """Return the number of forward passes of a step; a mixed row needs another in its pass."""
        count = -(-rows // self.micro_batch)
        return max(1, min(count, rows // 2)) if mixed else count

    def _steps(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield epoch and row indices of every step, drawn like those of a run, without end."""
        batches = StepBatches(
            len(self.train_rows),
            rows_per_step=self.rows_per_step,
            lengths=self.inputs.lengths(self.train_rows),
            draw=class_draw(self.train_rows, self.prepared.recipe.batching.sampling),
            several_views=True,
            seed=self.seed,
        )
        for epoch in itertools.count():
            batches.set_epoch(epoch)
            yield from ((epoch, rows) for rows in batches.step_rows())

    def logits(self) -> np.ndarray:
        """Return the logits (N, C) of the scored rows, in order."""
        device, autocast = self.prepared.context.device, self.prepared.context.autocast
        with evaluating(self.model), torch.no_grad(), autocast_to(autocast, device):
            parts = [self.model(**to_device(batch, device)).logits.float().cpu().numpy() for _, batch in self._scored]
        return np.concatenate(parts)[np.argsort(np.concatenate([rows for rows, _ in self._scored]))]

    def _collate(self, batch: dict[str, list]) -> dict[str, Any]:
        collated = self.inputs.collate(batch)
        if self._shrink is not None:
            collated["pixel_values"] = self._shrink(collated["pixel_values"])
        return collated

    def _half_size(self) -> tuple[Shrink | None, tuple[int, int] | None]:
        """Return what halves the images' sides, and the side of square images in pixels, halved and full.

        None for small images, and for a model of a single input size.
        """
        if not isinstance(self.inputs, ImageInputs) or not takes_sizes(self.model.config):
            return None, None
        height, width = self.inputs.collate(self.train_rows[:1])["pixel_values"].shape[-2:]
        if min(height, width) < MIN_SIDE_TO_HALVE:
            return None, None
        shrink = shrink_for(self.model, min(height, width) // 2)
        return shrink, (shrink.shape(height, width)[0], height) if height == width else None

    def _fit_head(self) -> None:
        """Fit the classification layer like a run, on the rows and image size of trials."""
        rng = np.random.default_rng(self.seed)
        drawn = np.sort(rng.permutation(len(self.train_rows))[:MOST_ROWS])
        labels = labels_of(self.train_rows)
        chosen = self.task.with_every_output(drawn, labels)
        sample, weights_C = self.train_rows.select(chosen), head_weights(self.prepared)
        positive = class_weights(self.prepared) if self.task.weighs_positives else None
        layer = classification_layer(self.model)
        (features_ND,) = head_features(
            self.model,
            [layer],
            Rows(sample, columns_of(self.inputs, labels=False)),
            self._collate,
            autocast=self.prepared.context.autocast,
            progress="fit the head",
        )
        fit = HeadFit(
            fit_settings(self.prepared).inverse_strength,
            None if weights_C is None else weights_C[classes_of(labels)[chosen]],
            first_sources(self.fit_rows.select(chosen)),
            None if positive is None else np.asarray(positive),
        )
        head = self.task.fit_head(features_ND, labels[chosen], fit)
        init_head(self.prepared, [layer], [head], "fitted to the rows of trials")

    def _scoring_batches(self, encoded: Dataset) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        """Yield indices and model inputs of the scored rows; activations of the frozen layers if the model can start
        from these."""
        rows = Rows(encoded, columns_of(self.inputs, labels=False))
        lengths_N = self.inputs.lengths(encoded)
        order_N = np.arange(len(rows)) if lengths_N is None else np.argsort(lengths_N, kind="stable")
        layer = frozen_layers(self.model)
        for first in range(0, len(rows), SCORING_BATCH_SIZE):
            indices = order_N[first : first + SCORING_BATCH_SIZE]
            batch = to_device(self._collate(rows.__getitems__(indices.tolist())), self.prepared.context.device)
            if layer and self._prefix is None:
                try:
                    self._prefix = Prefix(self.model, layer, batch)
                except NoBoundary:
                    layer = 0
            if (prefix := self._prefix) is not None:
                with autocast_to(self.prepared.context.autocast, self.prepared.context.device):
                    batch = prefix.as_batch(list(rows_of(prefix.read(self.model, batch), batch)))
            yield indices, batch


def _hold_out(splits: Splits, labels: np.ndarray, split_seed: int) -> np.ndarray:
    """Return a mask (N,) of the rows that score trials.

    Raises:
        InputError: there are too few rows.
    """
    first_N = first_occurrences(row_digests(splits.train.with_format("arrow")[:]))
    share, seed = min(SCORED_SHARE, MAX_SCORED / len(labels)), (split_seed, SEED_STREAM_WITHIN_TRAIN)
    try:
        return targets_of(splits.task).hold_out(labels, first_N, fraction=share, seed=seed)
    except InputError as error:
        raise InputError(f"search: no rows to score trials with: the {error}") from None
