"""The inside of a teacher, beside its student's: that the two can be compared, and what it has of a batch.

States of tokens are asked for as the student trains, of the very batch that it gets: they would fill a disk. Embeddings are
kept like logits, see `teacher.ask`.

Legend: B rows, H height, W width.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_finetune.answers.kept import Kept
from hf_finetune.data.image import decode
from hf_finetune.data.inputs import ImageInputs, Inputs, Rows, TextInputs, columns_of, drawn_rows
from hf_finetune.data.pixels import check_changeable
from hf_finetune.data.taught_rows import embedding_column
from hf_finetune.data.views import Views
from hf_finetune.errors import InputError
from hf_finetune.evaluation.inference import evaluating, to_device
from hf_finetune.models.first_token import all_tokens
from hf_finetune.models.inner_states import States, Wanted, Watch
from hf_finetune.models.pooling import PoolingKind, tokens_before_patches
from hf_finetune.models.processors import position_limit
from hf_finetune.teacher import Teacher, asking
from hf_finetune.teacher import embeddings as teachers_embeddings
from hf_finetune.training import layer_search
from hf_finetune.training.distillation import Clock, Insides
from hf_finetune.training.distillation_choices import DistillationKind, RepresentationKind
from hf_finetune.training.flops import patches
from hf_finetune.training.representation_choices import OfTokens, is_searched
from hf_finetune.training.representations import Configs, comparison, wanted

logger = logging.getLogger("hf_finetune.run")
INSTEAD = "ask for what is of rows (Embedding, RelationalKD, Contrastive)"
# Rows of a forward pass by which layers are compared: what is taken of all layers is there at once.
SEARCHED_AT_ONCE = 16


def check(teacher: Teacher, kinds: Sequence[DistillationKind], inputs: Inputs, model: nn.Module, rows: Dataset) -> None:
    """Refuse kinds that the two networks, or what turns rows into their inputs, do not go with.

    Args:
        inputs, model: the student's.
        rows: of the training data.

    Raises:
        InputError: naming the kind, what stands against it, and the remedy.
    """
    theirs = teacher.classifier.model
    prompts = isinstance(theirs, PeftModel) and theirs.active_peft_config.is_prompt_learning
    for place, kind in enumerate(kinds):
        if not isinstance(kind, RepresentationKind):
            continue
        try:
            if prompts:
                raise InputError(
                    f"{teacher.name} reads prompts before every row, of which the student has none; take a teacher without"
                )
            wanted(kind, (model.config, theirs.config))
            if isinstance(kind, OfTokens):
                _check_tokens(teacher, inputs, model, rows)
        except InputError as error:
            raise InputError(f"objective.kinds[{place}]: {error}") from error


def _check_tokens(teacher: Teacher, inputs: Inputs, model: nn.Module, rows: Dataset) -> None:
    theirs = teacher.classifier.inputs
    if isinstance(inputs, TextInputs) and isinstance(theirs, TextInputs):
        _check_texts(teacher, inputs, theirs.tokenizer, rows)
    elif isinstance(inputs, ImageInputs) and isinstance(theirs, ImageInputs):
        _check_pictures(teacher, inputs, theirs, model, rows[0])


def _check_texts(teacher: Teacher, inputs: TextInputs, tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> None:
    some = rows.select(range(min(200, len(rows))))
    batch = {name: some[name][:] for name in ("text", "text_pair") if name in some.column_names}
    own, theirs = (
        TextInputs(t, inputs.max_length).encode_batch(batch)["input_ids"] for t in (inputs.tokenizer, tokenizer)
    )
    own_names = inputs.tokenizer.model_input_names
    if inputs.tokenizer.get_vocab() != tokenizer.get_vocab() or own != theirs:
        raise InputError(
            f"it compares token by token, and {teacher.name} cuts texts into other ones than the student; {INSTEAD}, or take a "
            "teacher of the same tokenizer"
        )
    if "text_pair" in batch and "token_type_ids" in set(tokenizer.model_input_names) - set(own_names):
        raise InputError(f"{teacher.name} is told which text of a pair a token is of, the student is not; {INSTEAD}")
    limit = position_limit(teacher.classifier.model.config)
    if limit is not None and limit < inputs.max_length:
        raise InputError(
            f"{teacher.name} has positions for {limit} tokens, and data.max_length is {inputs.max_length}; give {limit} or less"
        )


def _check_pictures(
    teacher: Teacher, inputs: ImageInputs, theirs: ImageInputs, model: nn.Module, row: dict[str, Any]
) -> None:
    for each in (inputs, theirs):
        check_changeable(each.processor, decode(row["image"]), "the pixels beside this teacher")
    own_BCHW, theirs_BCHW = (each.collate({"image": [row["image"]]})["pixel_values"] for each in (inputs, theirs))
    configs = model.config, teacher.classifier.model.config
    counts = [patches(c, tuple(x.shape[1:])) for c, x in zip(configs, (own_BCHW, theirs_BCHW), strict=True)]
    if own_BCHW.shape != theirs_BCHW.shape or counts[0] != counts[1]:
        sizes = [
            f"{c} patches of {tuple(x.shape[-2:])} pixels" for c, x in zip(counts, (own_BCHW, theirs_BCHW), strict=True)
        ]
        raise InputError(
            f"it compares patch by patch, and {teacher.name} reads {sizes[1]}, the student {sizes[0]}; {INSTEAD}, or take a "
            "teacher of as many"
        )
    if not torch.allclose(Normalised.of(inputs, theirs)(own_BCHW), theirs_BCHW, atol=1e-3):
        raise InputError(
            f"the processor of {teacher.name} resizes pictures in another way than the student's; {INSTEAD}"
        )


@dataclass(frozen=True)
class Normalised:
    """From one processor's normalised pixels to another's."""

    scale_C11: torch.Tensor
    shift_C11: torch.Tensor

    @classmethod
    def of(cls, inputs: ImageInputs, theirs: ImageInputs) -> Normalised:
        """By what they make of black and of white."""
        ends = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 1, 1)
        (black, white), (their_black, their_white) = (
            i.collate({"pixels": ends})["pixel_values"] for i in (inputs, theirs)
        )
        scale = (their_white - their_black) / (white - black)
        return cls(scale, their_black - scale * black)

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Shape (B, 3, H, W), likewise."""
        return pixels_BCHW * self.scale_C11.to(pixels_BCHW.device) + self.shift_C11.to(pixels_BCHW.device)


class TeachersInside:
    """What a teacher has of a batch as its student gets it.

    Args:
        wanted: what is taken of it; the embeddings come with the batch, see `data.taught_rows`.
        inputs: the student's.
        skip: see `inner_states.Watch`.
    """

    def __init__(self, teacher: Teacher, wanted: Wanted, inputs: Inputs, *, skip: int) -> None:
        self.poolings = wanted.poolings
        self.model, theirs = teacher.classifier.model, teacher.classifier.inputs
        self.watch: Watch | None = None
        self.normalised: Normalised | None = None
        if wanted.hidden or wanted.attention:
            self.watch = Watch(self.model, Wanted(wanted.hidden, wanted.attention), skip=skip)
            if isinstance(inputs, ImageInputs) and isinstance(theirs, ImageInputs):
                self.normalised = Normalised.of(inputs, theirs)
        self.names = theirs.tokenizer.model_input_names if isinstance(theirs, TextInputs) else ["pixel_values"]

    def __call__(self, batch: dict[str, Any]) -> States:
        """The states, without gradients, and the embeddings."""
        found = States(batch.get("attention_mask"))
        if self.watch is not None:
            given = {name: batch[name] for name in self.names if name in batch}
            if self.normalised is not None:
                given["pixel_values"] = self.normalised(given["pixel_values"])
            with evaluating(self.model), all_tokens(self.model), torch.no_grad(), self.watch.recording(given) as found:
                self.model(**given)
        found.pooled = {pooling: batch[embedding_column(pooling)] for pooling in self.poolings}
        return found

    def close(self) -> None:
        """Take the hooks off the teacher."""
        if self.watch is not None:
            self.watch.close()


class EmbedViews:
    """Gives a teacher's embeddings of an epoch's views, as `teacher.Live` does its logits."""

    def __init__(self, teacher: Teacher, poolings: Collection[PoolingKind], clock: Clock, budget_gb: float) -> None:
        self.teacher, self.poolings, self.clock, self.budget_gb = teacher, poolings, clock, budget_gb

    def __call__(self, views: Views) -> dict[str, Kept]:
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
    configs = model.config, teacher.classifier.model.config
    asked = {place: kind for place, kind in enumerate(kinds) if is_searched(kind)}
    own, theirs = _wanted_together(asked.values(), configs)
    found = {place: layer_search.alike(kind, configs, seed=seed) for place, kind in asked.items()}
    chosen = drawn_rows(inputs, rows, layer_search.MOST_ROWS, seed=seed)
    batches, device = Rows(rows, columns_of(inputs, labels=False)), next(model.parameters()).device
    own_skip, teachers_skip = _skips(configs)
    with (
        closing(Watch(model, own, skip=own_skip)) as watch,
        closing(TeachersInside(teacher, theirs, inputs, skip=teachers_skip)) as teachers_inside,
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
    return tuple(replace(kind, layers=found[place]) if is_searched(kind) else kind for place, kind in enumerate(kinds))


def _wanted_together(kinds: Iterable[RepresentationKind], configs: Configs) -> tuple[Wanted, Wanted]:
    """All that the kinds take of the student, and of the teacher."""
    own, theirs = zip(*(wanted(kind, configs) for kind in kinds), strict=True)
    return reduce(or_, own), reduce(or_, theirs)


def _skips(configs: Configs) -> tuple[int, int]:
    """Tokens before the patches of the student's pictures, and of the teacher's, that are left out.

    Where both have the same ones, these are compared as well.
    """
    own, theirs = map(tokens_before_patches, configs)
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
        budget_gb, live: see `teacher.ask`.
    """
    configs = model.config, teacher.classifier.model.config
    asked = {place: kind for place, kind in enumerate(kinds) if isinstance(kind, RepresentationKind)}
    own, theirs = _wanted_together(asked.values(), configs)
    own_skip, teachers_skip = _skips(configs)
    generator, clock, poolings = torch.Generator().manual_seed(seed), Clock(), sorted(theirs.poolings)
    kept = {} if live else {p: teachers_embeddings(teacher, rows, "train", p, budget_gb=budget_gb) for p in poolings}
    return Insides(
        own,
        {place: comparison(kind, configs, generator) for place, kind in asked.items()},
        TeachersInside(teacher, theirs, inputs, skip=teachers_skip),
        EmbedViews(teacher, poolings, clock, budget_gb)
        if live
        else {embedding_column(p): x_ND for p, x_ND in kept.items()},
        skip=own_skip,
        clock=clock,
    )
