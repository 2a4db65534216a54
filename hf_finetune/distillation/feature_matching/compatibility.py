"""Check that the features of a student and its teacher can be compared, token by token where a loss does so.

Legend: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset
from peft import PeftModel

from hf_finetune.data.image_processing import check_augmentable, probe_indices
from hf_finetune.data.inputs import ImageInputs, TextInputs
from hf_finetune.data.long.config import TRUNCATE
from hf_finetune.distillation.config import DistillationKind
from hf_finetune.distillation.feature_matching.pair import NetworkPair
from hf_finetune.distillation.losses.base import FeatureLoss, TokenLoss
from hf_finetune.errors import InputError
from hf_finetune.models.processors import positions_of
from hf_finetune.training.flops import patches

REMEDY = "take losses that compare whole rows (Embedding, RelationalKD, Contrastive)"


def check_features(pair: NetworkPair, kinds: Sequence[DistillationKind], rows: Dataset) -> None:
    """Refuse losses that do not fit the two networks or their inputs.

    Args:
        rows: training rows.

    Raises:
        InputError: naming the loss, the obstacle and the remedy.
    """
    teacher, network = pair.teacher, pair.teacher.classifier.model
    for i, kind in enumerate(kinds):
        if not isinstance(kind, FeatureLoss):
            continue
        try:
            if isinstance(network, PeftModel) and network.active_peft_config.is_prompt_learning:
                raise InputError(
                    f"{teacher.name} reads virtual tokens before every row, the student none; take another teacher"
                )
            teacher_inputs = teacher.classifier.inputs
            if isinstance(teacher_inputs, TextInputs) and teacher_inputs.long != TRUNCATE:
                raise InputError(
                    f"{pair.teacher.name} reads more than the beginning of a long text, the student does not; take "
                    "another teacher"
                )
            kind.required(pair.networks)
            if isinstance(kind, TokenLoss):
                _check_texts(pair, rows)
                _check_images(pair, rows)
        except InputError as error:
            raise InputError(f"objective.kinds[{i}]: {error}") from error


def _check_texts(pair: NetworkPair, rows: Dataset) -> None:
    inputs, teacher_inputs = pair.inputs, pair.teacher.classifier.inputs
    if not isinstance(inputs, TextInputs) or not isinstance(teacher_inputs, TextInputs):
        return
    name, tokenizer, sample = pair.teacher.name, teacher_inputs.tokenizer, rows.select(range(min(200, len(rows))))
    texts = {column: sample[column][:] for column in ("text", "text_pair") if column in sample.column_names}
    tokenizers = inputs.tokenizer, tokenizer
    ids, teacher_ids = (TextInputs(t, inputs.max_length).encode_batch(texts)["input_ids"] for t in tokenizers)
    if inputs.tokenizer.get_vocab() != tokenizer.get_vocab() or ids != teacher_ids:
        raise InputError(
            f"it compares token by token, and the tokenizer of {name} splits texts in another way than the student's; "
            f"{REMEDY}, or a teacher with the same tokenizer"
        )
    only_teachers = {*tokenizer.model_input_names} - {*inputs.tokenizer.model_input_names}
    if "text_pair" in texts and "token_type_ids" in only_teachers:
        raise InputError(f"{name} reads token_type_ids of pairs of texts, and the student does not; {REMEDY}")
    limit = positions_of(pair.teacher.model)
    if limit is not None and limit < inputs.max_length:
        raise InputError(
            f"{name} has positions for {limit} tokens, and data.max_length is {inputs.max_length}; give {limit} or less"
        )


def _check_images(pair: NetworkPair, rows: Dataset) -> None:
    inputs, teacher_inputs = pair.inputs, pair.teacher.classifier.inputs
    if not isinstance(inputs, ImageInputs) or not isinstance(teacher_inputs, ImageInputs):
        return
    images = rows.select(probe_indices(len(rows)))["image"][:]
    for each in (inputs, teacher_inputs):
        check_augmentable(each.processor, images, "the pixels beside this teacher")
    pixels_BCHW, teacher_BCHW = (each.collate({"image": images})["pixel_values"] for each in (inputs, teacher_inputs))
    count, teacher_count = (
        patches(config, tuple(x_BCHW.shape[1:]))
        for config, x_BCHW in zip(pair.networks, (pixels_BCHW, teacher_BCHW), strict=True)
    )
    name = pair.teacher.name
    if pixels_BCHW.shape != teacher_BCHW.shape or count != teacher_count:
        raise InputError(
            f"it compares patch by patch, and {name} reads {teacher_count} patches of {tuple(teacher_BCHW.shape[-2:])} "
            f"pixels, the student {count} patches of {tuple(pixels_BCHW.shape[-2:])} pixels; {REMEDY}, or a teacher "
            "with as many patches"
        )
    if not torch.allclose(PixelScaling.between(inputs, teacher_inputs)(pixels_BCHW), teacher_BCHW, atol=1e-3):
        raise InputError(f"the processor of {name} resizes images in another way than the student's; {REMEDY}")


@dataclass(frozen=True)
class PixelScaling:
    """Linear map from the normalized pixels of one processor to those of another."""

    scale_C11: torch.Tensor
    shift_C11: torch.Tensor

    @classmethod
    def between(cls, inputs: ImageInputs, other: ImageInputs) -> PixelScaling:
        """Derive the map from the values that the two processors give to black and to white."""
        ends = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 1, 1)
        (black, white), (other_black, other_white) = (
            each.collate({"pixels": ends})["pixel_values"] for each in (inputs, other)
        )
        scale = (other_white - other_black) / (white - black)
        return cls(scale, other_black - scale * black)

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Map pixels (B, 3, H, W)."""
        return pixels_BCHW * self.scale_C11.to(pixels_BCHW.device) + self.shift_C11.to(pixels_BCHW.device)
