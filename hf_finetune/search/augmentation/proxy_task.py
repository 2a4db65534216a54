"""The proxy task of a search: a policy trains the shared start for a few steps, and rows that it did not see score it.

What makes a trial cheap: the run's checkpoint is loaded once, its head fitted once, its lower layers stay as they are,
large images have half their side, and what the lower layers make of the scored rows is computed once.

Legend: N rows, C classes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
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
from hf_finetune.data.sampling import class_draw
from hf_finetune.data.splits import SEED_STREAM_WITHIN_TRAIN, hold_out
from hf_finetune.errors import InputError
from hf_finetune.evaluation import calibration
from hf_finetune.evaluation.logits import autocast_to, evaluating, to_device
from hf_finetune.features.prefix import NoBoundary, Prefix, rows_of
from hf_finetune.models.freezing import frozen_layers, train_top
from hf_finetune.models.modules import classification_layer, classification_layers, encoder_layers
from hf_finetune.models.patches import Shrink, shrink_for, takes_sizes
from hf_finetune.pipeline.batch_plan import micro_batch
from hf_finetune.pipeline.fit_head import fit_settings, head_weights, init_head
from hf_finetune.pipeline.objective import training_loss
from hf_finetune.pipeline.optimization import shortcuts
from hf_finetune.pipeline.run import prepare
from hf_finetune.search.searched_recipe import SearchedRecipe
from hf_finetune.training.input_mixing import mixed_inputs
from hf_finetune.training.optim.config import AdamW
from hf_finetune.training.optim.rate_groups import Rates, rate_groups
from hf_finetune.training.warm_start import MOST_ROWS, fit_head, head_features, with_every_class

TOP_LAYERS = 2
"""Layers that a trial trains, and the head; the head alone where the run trains no more."""
RATE = {"text-classification": 3e-4, "image-classification": 1e-4}
"""Learning rate of trials. That of images is above a run's: few steps are to show what many do."""
SCORED_SHARE, MOST_SCORED = 1 / 3, 256
"""Of the training rows, set aside to score trials."""
SMALL_SIDE = 128
"""Pixels; images below this keep their size."""


@dataclass(frozen=True)
class Score:
    """How a trial came out on the scored rows."""

    value: float
    """Minus the log loss, in nats, at the temperature at which it is least: it moves with every row, where accuracy
    jumps from row to row, and a network that is merely less confident gains nothing by it."""
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class Stage:
    """A part of a trial."""

    steps: int
    operations: tuple[Augmentation, ...] = ()
    """Change the rows."""
    mix: tuple[Mixing, ...] = ()
    """Mix them with one another, and their labels."""


class ProxyTask:
    """Loads the shared start, and runs trials from it.

    Raises:
        InputError: see `pipeline.run.prepare`; or too few training rows to set some aside, or images that no operation
            can change.
    """

    def __init__(self, searched: SearchedRecipe) -> None:
        recipe, prepared = searched.recipe, prepare(searched.proxy().recipe)
        splits, self.inputs, self.seed = prepared.data.splits, prepared.data.inputs, recipe.train.seed
        if isinstance(self.inputs, ImageInputs):
            check_augmentable(
                self.inputs.processor, splits.train["image"], "data.augment, which search augmentation looks for"
            )
        self.prepared, self.model = prepared, prepared.model.network
        network: nn.Module = self.model
        network.to(prepared.context.device)
        labels_N = np.asarray(splits.train["label"][:])
        is_scored_N = _set_aside(splits.train, labels_N, recipe.data.split_seed)
        self.fit_rows = splits.train.select(np.flatnonzero(~is_scored_N))
        self.scored_labels = labels_N[is_scored_N]
        self.population = population_of(self.fit_rows, splits.labels)
        self.encoded = encoded = self.inputs.encode(splits.train)
        self.train_rows = encoded.select(np.flatnonzero(~is_scored_N))
        cut = micro_batch(prepared)
        self.micro_batch, self.rows_per_step = cut.rows, cut.rows_per_step
        self._shrink, self.sides = self._half_side()
        count = len(encoder_layers(self.model))
        train_top(self.model, 0 if recipe.effective_method == "head" else min(TOP_LAYERS, count))
        self._fit_head()
        self._start = {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}
        self._prefix: Prefix | None = None
        self._scored = list(self._batches_scored(encoded.select(np.flatnonzero(is_scored_N))))

    @property
    def one_head(self) -> bool:
        """Whether a run's head is fitted to the same features with every seed, so that one fit does for all."""
        fitted = {name for name, module in self.model.named_modules() if module in classification_layers(self.model)}
        return set(self.prepared.model.fresh) <= fitted and len(self.prepared.data.splits.train) <= MOST_ROWS

    def sample(self) -> TextBatch | ImageBatch:
        """A few training rows, as operations see them."""
        raw = self.train_rows[:2]
        labels = np.asarray(raw["label"])
        if isinstance(self.inputs, ImageInputs):
            return ImageBatch(self.inputs.pixels(raw["image"]), labels, self.population)
        return TextBatch(raw["text"], raw.get("text_pair"), labels, self.population)

    def run(self, stages: Sequence[Stage]) -> Score:
        """Train from the shared start, then score. The same stages give the same score."""
        started = time.perf_counter()
        with torch.random.fork_rng(devices=[]), shortcuts(self.prepared.context).use(self.model):
            torch.manual_seed(self.seed)
            with self.all_layers():
                self._train(stages)
            logits_NC = self.logits()
        return Score(
            value=-calibration.least_log_loss(self.scored_labels, logits_NC),
            accuracy=float((logits_NC.argmax(-1) == self.scored_labels).mean()),
            seconds=time.perf_counter() - started,
        )

    def seconds(self, operations: tuple[Augmentation, ...], steps: int = 2) -> tuple[float, float]:
        """What a step takes, and the rest of a trial."""
        self.run([Stage(1, operations)])
        rest = self.run([]).seconds
        return max(self.run([Stage(steps, operations)]).seconds - rest, 1e-3) / steps, rest

    @contextmanager
    def all_layers(self) -> Iterator[None]:
        """While it lasts, mixed word embeddings go through all layers, not past the frozen ones as the scored rows
        do."""
        with nullcontext() if self._prefix is None else self._prefix.idle():
            yield

    def _train(self, stages: Sequence[Stage]) -> None:
        model, prepared = self.model, self.prepared
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in self._start:
                    parameter.copy_(self._start[name])
        lr, loss = RATE[prepared.recipe.task], training_loss(prepared)
        groups = rate_groups(
            model, lr=lr, weight_decay=prepared.recipe.train.weight_decay, rates=Rates(fresh=prepared.model.fresh)
        )
        # At one rate throughout: the first steps of a long trial are those of a short one.
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
                for part in np.array_split(rows, self._parts(len(rows), mixed=bool(stage.mix))):
                    batch = to_device(collate_stage(data.__getitems__(part.tolist())), prepared.context.device)
                    if "partners" in batch:
                        batch = mixed_inputs(model, batch)
                    labels_B = batch.pop("labels")
                    with autocast_to(prepared.context.autocast, prepared.context.device):
                        logits_BC = model(**batch).logits
                    (loss(logits_BC, labels_B) / len(rows)).backward()
                nn.utils.clip_grad_norm_(model.parameters(), prepared.recipe.train.max_grad_norm or float("inf"))
                optimizer.step()
                optimizer.zero_grad()

    def _parts(self, rows: int, *, mixed: bool) -> int:
        """Forward passes of a step of so many rows: a row that is mixed needs another beside it."""
        parts = -(-rows // self.micro_batch)
        return max(1, min(parts, rows // 2)) if mixed else parts

    def _steps(self) -> Iterator[tuple[int, np.ndarray]]:
        """Epoch and rows of step after step, drawn as a run draws them, without an end."""
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
        """Logits (N, C) of the scored rows, in their order."""
        parts, places = [], []
        with (
            evaluating(self.model),
            torch.no_grad(),
            autocast_to(self.prepared.context.autocast, self.prepared.context.device),
        ):
            for rows, batch in self._scored:
                parts.append(self.model(**to_device(batch, self.prepared.context.device)).logits.float().cpu().numpy())
                places.append(rows)
        return np.concatenate(parts)[np.argsort(np.concatenate(places))]

    def _collate(self, batch: dict[str, list]) -> dict[str, Any]:
        collated = self.inputs.collate(batch)
        if self._shrink is not None:
            collated["pixel_values"] = self._shrink(collated["pixel_values"])
        return collated

    def _half_side(self) -> tuple[Shrink | None, tuple[int, int] | None]:
        """What halves the side of images, and both sides of square ones in pixels, small and whole; None where they are
        small, or the network takes one size alone."""
        if not isinstance(self.inputs, ImageInputs) or not takes_sizes(self.model.config):
            return None, None
        height, width = self.inputs.collate(self.train_rows[:1])["pixel_values"].shape[-2:]
        if min(height, width) < SMALL_SIDE:
            return None, None
        shrink = shrink_for(self.model, min(height, width) // 2)
        return shrink, (shrink.shape(height, width)[0], height) if height == width else None

    def _fit_head(self) -> None:
        """Fit the classification layer as a run does, on the rows and images of trials."""
        rng = np.random.default_rng(self.seed)
        drawn = np.sort(rng.permutation(len(self.train_rows))[:MOST_ROWS])
        chosen = with_every_class(drawn, np.asarray(self.train_rows["label"][:]))
        sample = self.train_rows.select(chosen)
        labels, weights_C = np.asarray(sample["label"][:]), head_weights(self.prepared)
        layer = classification_layer(self.model)
        (features_ND,) = head_features(
            self.model,
            [layer],
            Rows(sample, columns_of(self.inputs, labels=False)),
            self._collate,
            autocast=self.prepared.context.autocast,
            progress="fit the head",
        )
        head = fit_head(
            features_ND,
            labels,
            len(self.prepared.data.splits.labels),
            inverse_strength=fit_settings(self.prepared).inverse_strength,
            weights_N=None if weights_C is None else weights_C[labels],
            first_N=first_sources(self.fit_rows.select(chosen)),
        )
        init_head(self.prepared, [layer], [head], "fitted to the rows of trials")

    def _batches_scored(self, encoded: Dataset) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        """Scored rows as the model takes them: what the frozen layers make of them, where it can be entered above
        these."""
        rows, size = Rows(encoded, columns_of(self.inputs, labels=False)), 32
        lengths_N = self.inputs.lengths(encoded)
        order_N = np.arange(len(rows)) if lengths_N is None else np.argsort(lengths_N, kind="stable")
        layer = frozen_layers(self.model)
        for first in range(0, len(rows), size):
            places = order_N[first : first + size]
            batch = to_device(self._collate(rows.__getitems__(places.tolist())), self.prepared.context.device)
            if layer and self._prefix is None:
                try:
                    self._prefix = Prefix(self.model, layer, batch)
                except NoBoundary:
                    layer = 0
            if (prefix := self._prefix) is not None:
                with autocast_to(self.prepared.context.autocast, self.prepared.context.device):
                    batch = prefix.as_batch(list(rows_of(prefix.read(self.model, batch), batch)))
            yield places, batch


def _set_aside(rows: Dataset, labels_N: np.ndarray, split_seed: int) -> np.ndarray:
    """Mask (N,) of the rows that score trials.

    Raises:
        InputError: there are too few.
    """
    first_N = first_occurrences(row_digests(rows.with_format("arrow")[:]))
    share = min(SCORED_SHARE, MOST_SCORED / len(rows))
    try:
        return hold_out(labels_N, first_N, fraction=share, seed=(split_seed, SEED_STREAM_WITHIN_TRAIN))
    except InputError as error:
        raise InputError(f"search: no rows to score trials with: the {error}") from None
