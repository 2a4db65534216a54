"""That the inside of a teacher can be compared with its student's, token by token where that is asked.

Legend: B pictures, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_finetune.data.image_processing import check_augmentable, probe_indices
from hf_finetune.data.inputs import ImageInputs, Inputs, TextInputs
from hf_finetune.distillation.config import DistillationKind, FeatureKind, TokenKind
from hf_finetune.distillation.networks import Networks
from hf_finetune.distillation.teachers import Teacher
from hf_finetune.errors import InputError
from hf_finetune.models.processors import positions_of
from hf_finetune.training.flops import patches

INSTEAD = "ask for what is of rows (Embedding, RelationalKD, Contrastive)"


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
        if not isinstance(kind, FeatureKind):
            continue
        try:
            if prompts:
                raise InputError(
                    f"{teacher.name} reads prompts before every row, of which the student has none; take a teacher without"
                )
            kind.required(Networks(model.config, theirs.config))
            if isinstance(kind, TokenKind):
                _check_tokens(teacher, inputs, model, rows)
        except InputError as error:
            raise InputError(f"objective.kinds[{place}]: {error}") from error


def _check_tokens(teacher: Teacher, inputs: Inputs, model: nn.Module, rows: Dataset) -> None:
    theirs = teacher.classifier.inputs
    if isinstance(inputs, TextInputs) and isinstance(theirs, TextInputs):
        _check_texts(teacher, inputs, theirs.tokenizer, rows)
    elif isinstance(inputs, ImageInputs) and isinstance(theirs, ImageInputs):
        _check_pictures(teacher, inputs, theirs, model, rows.select(probe_indices(len(rows)))["image"][:])


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
    limit = positions_of(teacher.classifier.model)
    if limit is not None and limit < inputs.max_length:
        raise InputError(
            f"{teacher.name} has positions for {limit} tokens, and data.max_length is {inputs.max_length}; give {limit} or less"
        )


def _check_pictures(
    teacher: Teacher, inputs: ImageInputs, theirs: ImageInputs, model: nn.Module, images: list[dict[str, Any]]
) -> None:
    for each in (inputs, theirs):
        check_augmentable(each.processor, images, "the pixels beside this teacher")
    own_BCHW, theirs_BCHW = (each.collate({"image": images})["pixel_values"] for each in (inputs, theirs))
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
