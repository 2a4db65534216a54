"""The inside of a teacher, beside its student's: what it has of a batch. That the two can be compared is `teacher_fit`'s.

States of tokens and embeddings are kept like logits, see `distillation.teachers.ask`. Where the states find no room on the disk, or rows are
other views in every epoch, the teacher is asked for them as the student trains, of the very batch that it gets.

Legend: N rows, n rows of a chunk, B rows of a forward pass, T tokens, t tokens of a chunk, K numbers of a token, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import Subset
from tqdm import tqdm

from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.data.inputs import ImageInputs, Inputs, Rows, TextInputs, columns_of, sample_rows
from hf_finetune.distillation import layer_search
from hf_finetune.distillation.compatibility import Normalised
from hf_finetune.distillation.config import DistillationKind, FeatureKind, searches_layers
from hf_finetune.distillation.feature_loss import FeatureLoss
from hf_finetune.distillation.features import FeatureRecorder, Features, RequiredFeatures
from hf_finetune.distillation.logit_cache import Kept
from hf_finetune.distillation.networks import Networks
from hf_finetune.distillation.taught_rows import TOKENS, embedding_column
from hf_finetune.distillation.teachers import Teacher, asked_of, asking, read_by
from hf_finetune.distillation.teachers import embeddings as teachers_embeddings
from hf_finetune.distillation.token_cache import KeptTokens, Layout, keep_tokens
from hf_finetune.distillation.trainer import Clock, Insides
from hf_finetune.evaluation.logits import evaluating, to_device
from hf_finetune.models.heads.pooling import PoolingKind, tokens_before_patches, width_of
from hf_finetune.models.kernels.narrow_last_layer import all_tokens
from hf_finetune.training.precision import exact_float32
from hf_finetune.utils.disk_cache import NoStore

logger = logging.getLogger("hf_finetune.run")
# Rows of a forward pass by which layers are compared: what is taken of all layers is there at once.
SEARCHED_AT_ONCE = 16
# Rows of a forward pass whose states are kept, and of a chunk of the store, which is in memory while it is made: twelve layers
# of a picture's patches are 4 MB.
ROWS_AT_ONCE, TOKEN_ROWS = 32, 128


class AskedInside:
    """What a teacher has of a batch as its student gets it: of tokens by a forward pass of its own.

    Args:
        wanted: what is taken of it; the embeddings come with the batch, see `distillation.taught_rows`.
        inputs: the student's.
        skip: see `features.FeatureRecorder`.
        as_kept: round the states as keeping them would, so that a student learns the same.
    """

    def __init__(
        self, teacher: Teacher, wanted: RequiredFeatures, inputs: Inputs, *, skip: int, as_kept: bool = False
    ) -> None:
        self.poolings, self.as_kept = wanted.poolings, as_kept
        self.model, theirs = teacher.classifier.model, teacher.classifier.inputs
        self.watch: FeatureRecorder | None = None
        self.normalised: Normalised | None = None
        if wanted.hidden or wanted.attention:
            self.watch = FeatureRecorder(self.model, wanted.of_tokens, skip=skip)
            if isinstance(inputs, ImageInputs) and isinstance(theirs, ImageInputs):
                self.normalised = Normalised.of(inputs, theirs)
        self.names = theirs.tokenizer.model_input_names if isinstance(theirs, TextInputs) else ["pixel_values"]

    def __call__(self, batch: dict[str, Any]) -> Features:
        """The states, without gradients, computed in float32, and the embeddings."""
        found = Features(batch.get("attention_mask"))
        if self.watch is not None:
            given = {name: batch[name] for name in self.names if name in batch}
            if self.normalised is not None:
                given["pixel_values"] = self.normalised(given["pixel_values"])
            with (
                evaluating(self.model),
                all_tokens(self.model),
                torch.no_grad(),
                # Whatever the student trains in: states that are kept are float32's, too.
                exact_float32(),
                torch.autocast(self.model.device.type, enabled=False),
                self.watch.recording(given) as found,
            ):
                self.model(**given)
            if self.as_kept:
                found.hidden = {layer: _rounded(x_BTD) for layer, x_BTD in found.hidden.items()}
                found.attention = {
                    layer: {name: _rounded(x_BTD) for name, x_BTD in of.items()}
                    for layer, of in found.attention.items()
                }
        found.pooled = {pooling: batch[embedding_column(pooling)] for pooling in self.poolings}
        return found

    def close(self) -> None:
        """Take the hooks off the teacher."""
        if self.watch is not None:
            self.watch.close()


def _rounded(x_BTD: torch.Tensor) -> torch.Tensor:
    """To float16, where that holds it, in float32."""
    halves_BTD = x_BTD.half().float()
    return torch.where(halves_BTD.isfinite(), halves_BTD, x_BTD)


class KeptInside:
    """What was kept of a batch: states of tokens, and embeddings.

    Args:
        layout: of the states; None: there are none.
        poolings: of the embeddings.
    """

    def __init__(self, layout: Layout | None, poolings: Collection[PoolingKind]) -> None:
        self.layout, self.poolings = layout, poolings

    def __call__(self, batch: dict[str, Any]) -> Features:
        """The states, float32, and the embeddings."""
        found = Features(mask_BT := batch.get("attention_mask"))
        if self.layout is not None:
            found = self.layout.states(_in_place(batch[TOKENS].float(), mask_BT), mask_BT)
        found.pooled = {pooling: batch[embedding_column(pooling)] for pooling in self.poolings}
        return found


def _in_place(states_BTK: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
    """States that begin with each row's first token, as the row's tokens lie in the batch: behind padding or before it."""
    if mask_BT is None:
        return states_BTK
    are_tokens_BT = mask_BT.bool()
    tokens_B = are_tokens_BT.sum(1, keepdim=True)
    found = states_BTK.new_zeros(*mask_BT.shape, states_BTK.shape[-1])
    found[are_tokens_BT] = states_BTK[torch.arange(states_BTK.shape[1], device=tokens_B.device) < tokens_B]
    return found


def kept_tokens(
    teacher: Teacher, layout: Layout, inputs: Inputs, rows: Dataset, *, skip: int, budget_gb: float
) -> KeptTokens | None:
    """The teacher's states of the rows' tokens, in float32 computed: found, or computed and kept. None: there is no room.

    Args:
        layout: what is kept of a token.
        inputs: the student's, whose tokens the teacher reads, too.
        rows: canonical rows.
        skip: see `features.FeatureRecorder`.
        budget_gb: see `distillation.teachers.ask`.
    """
    theirs, device = teacher.classifier.inputs, next(teacher.classifier.model.parameters()).device
    read = read_by(inputs, rows)
    wanted = RequiredFeatures(frozenset(layout.hidden), frozenset(layout.attention))
    with closing(AskedInside(teacher, wanted, inputs, skip=skip)) as inside:

        def of(numbers: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
            """States (b, T, K) of some rows, and which of them (b, T) are of no padding."""
            columns = Subset(read.rows, numbers).__getitems__(range(len(numbers)))
            found = inside(to_device(inputs.collate(columns), device))
            flat_BTK = layout.flat(found)
            mask_BT = flat_BTK.new_ones(flat_BTK.shape[:2]) if found.mask_BT is None else found.mask_BT
            return flat_BTK, mask_BT.bool()

        # Pictures have as many tokens each.
        tokens_N = np.full(len(rows), of([0])[0].shape[1]) if read.lengths_N is None else read.lengths_N
        bar = tqdm(
            total=len(rows), desc="the teacher's states of tokens", leave=False, dynamic_ncols=True, disable=None
        )

        def states(numbers: np.ndarray) -> np.ndarray:
            order = np.argsort(tokens_N[numbers], kind="stable")
            found: dict[int, np.ndarray] = {}
            for start in range(0, len(order), ROWS_AT_ONCE):
                places = order[start : start + ROWS_AT_ONCE]
                flat_BTK, mask_BT = of(numbers[places].tolist())
                halves = flat_BTK.half().cpu()
                found |= {p: x[mask].numpy() for p, x, mask in zip(places, halves, mask_BT.cpu(), strict=True)}
                bar.update(len(places))
            return np.concatenate([found[place] for place in range(len(numbers))])

        parts = {
            **asked_of(teacher, read, "float32"),
            "tokens": [layout.hidden, layout.attention, skip],
            "inputs": theirs.processor.to_json_string() if isinstance(theirs, ImageInputs) else inside.names,
        }
        try:
            with bar:
                kept, found = keep_tokens(
                    parts, tokens_N, states, numbers=layout.numbers, size=TOKEN_ROWS, budget_gb=budget_gb
                )
        except NoStore as reason:
            logger.warning(
                "the teacher reads the rows of every step again, as its states of tokens are not kept: %s", reason
            )
            return None
    if found:
        logger.info("the teacher's states of the tokens of %d rows: found", len(rows))
    return kept


class EmbedViews:
    """Gives a teacher's embeddings of an epoch's views, as `distillation.teachers.Live` does its logits."""

    def __init__(self, teacher: Teacher, poolings: Collection[PoolingKind], clock: Clock, budget_gb: float) -> None:
        self.teacher, self.poolings, self.clock, self.budget_gb = teacher, poolings, clock, budget_gb

    def __call__(self, views: AugmentedRows) -> dict[str, Kept]:
        """Embeddings (N, D) of the epoch's views, by column."""
        called = f"epoch {views.epoch}"
        with asking(self.clock):
            return {
                embedding_column(p): teachers_embeddings(self.teacher, views, called, p, budget_gb=self.budget_gb)
                for p in self.poolings
            }


def search_layers(
    teacher: Teacher,
    kinds: Sequence[DistillationKind],
    inputs: Inputs,
    model: nn.Module,
    rows: Dataset,
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Which layers go together in each kind that leaves it to be searched: those that are likest on a sample of the rows.

    Args:
        inputs, model: the student's, as it starts, on the teacher's device.
        rows: encoded training rows.
        seed: of the sample.

    Returns:
        For each such kind its `place` among all and its name, `kind`; on how many `rows` the `likeness` of each of the
        student's layers with each of the teacher's was measured, and by what `measure`; and the `layers` that follow from it.
        All in JSON's types.
    """
    networks = Networks(model.config, teacher.classifier.model.config)
    asked = {place: kind for place, kind in enumerate(kinds) if searches_layers(kind)}
    own, theirs = _wanted_together(asked.values(), networks)
    found = {place: layer_search.alike(kind, networks, seed=seed) for place, kind in asked.items()}
    chosen = sample_rows(inputs, rows, layer_search.MOST_ROWS, seed=seed)
    batches, device = Rows(rows, columns_of(inputs, labels=False)), next(model.parameters()).device
    own_skip, teachers_skip = _skips(networks)
    with (
        closing(FeatureRecorder(model, own, skip=own_skip)) as watch,
        closing(AskedInside(teacher, theirs, inputs, skip=teachers_skip)) as teachers_inside,
        evaluating(model),
        torch.no_grad(),
    ):
        for start in range(0, len(chosen), SEARCHED_AT_ONCE):
            some = batches.__getitems__(chosen[start : start + SEARCHED_AT_ONCE].tolist())
            batch = to_device(inputs.collate(some), device)
            with watch.recording(batch) as states:
                model(**batch)
            teachers_states = teachers_inside(batch)
            for each in found.values():
                each.add(states, teachers_states)
    return [
        {"place": place, "kind": type(kind).__name__, "rows": len(chosen), **_layer_map(found[place])}
        for place, kind in asked.items()
    ]


def _layer_map(found: layer_search.StatesAlike | layer_search.AttentionAlike) -> dict[str, Any]:
    # To four digits, so that the map follows from the very numbers that are told; and no -0.
    likeness_SL = np.array([[float(f"{x:.4g}") for x in row] for row in found.likeness()]) + 0.0
    pairs = layer_search.likest(likeness_SL)
    logger.info(
        "layers that go together, by %s: %s", found.measure, ", ".join(f"{one} with {other}" for one, other in pairs)
    )
    return {"measure": found.measure, "layers": [list(pair) for pair in pairs], "likeness": likeness_SL.tolist()}


def with_layers(
    kinds: Sequence[DistillationKind], layer_maps: Sequence[dict[str, Any]]
) -> tuple[DistillationKind, ...]:
    """The kinds with the layers that were found for them, see `search_layers`."""
    found = {each["place"]: tuple((own, theirs) for own, theirs in each["layers"]) for each in layer_maps}
    return tuple(
        replace(kind, layers=found[place]) if searches_layers(kind) else kind for place, kind in enumerate(kinds)
    )


def _wanted_together(kinds: Iterable[FeatureKind], networks: Networks) -> tuple[RequiredFeatures, RequiredFeatures]:
    """All that the kinds take of the student, and of the teacher."""
    own, theirs = zip(*(kind.required(networks) for kind in kinds), strict=True)
    return reduce(or_, own), reduce(or_, theirs)


def _skips(networks: Networks) -> tuple[int, int]:
    """Tokens before the patches of the student's pictures, and of the teacher's, that are left out.

    Where both have the same ones, these are compared as well.
    """
    own, theirs = map(tokens_before_patches, networks)
    return (own, theirs) if own != theirs else (0, 0)


def insides_of(
    teacher: Teacher,
    kinds: Sequence[DistillationKind],
    inputs: Inputs,
    model: nn.Module,
    rows: Dataset,
    *,
    seed: int,
    budget_gb: float,
    live: bool,
) -> Insides:
    """What compares the insides of a student and its teacher.

    Args:
        kinds: with the layers that were searched, see `with_layers`.
        inputs, model: the student's.
        rows: canonical training rows.
        seed: of the projections' first weights.
        budget_gb, live: see `distillation.teachers.ask`.
    """
    networks = Networks(model.config, teacher.classifier.model.config)
    asked = {place: kind for place, kind in enumerate(kinds) if isinstance(kind, FeatureKind)}
    own, theirs = _wanted_together(asked.values(), networks)
    own_skip, teachers_skip = _skips(networks)
    generator, clock, poolings = torch.Generator().manual_seed(seed), Clock(), sorted(theirs.poolings)
    comparisons = {place: FeatureLoss(kind, networks, generator) for place, kind in asked.items()}
    if live:
        inside = AskedInside(teacher, theirs, inputs, skip=teachers_skip, as_kept=True)
        return Insides(own, comparisons, inside, EmbedViews(teacher, poolings, clock, budget_gb), own_skip, clock)
    kept: dict[str, Any] = {
        embedding_column(p): teachers_embeddings(teacher, rows, "train", p, budget_gb=budget_gb) for p in poolings
    }
    layout = Layout(tuple(sorted(theirs.hidden)), tuple(sorted(theirs.attention)), width_of(networks.teacher))
    inside = KeptInside(layout if layout.numbers else None, poolings)
    if layout.numbers:
        tokens = kept_tokens(teacher, layout, inputs, rows, skip=teachers_skip, budget_gb=budget_gb)
        if tokens is None:
            inside = AskedInside(teacher, theirs, inputs, skip=teachers_skip, as_kept=True)
        else:
            kept[TOKENS] = tokens
    return Insides(own, comparisons, inside, kept, own_skip, clock)
