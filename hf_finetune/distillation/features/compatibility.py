"""Check that the features of a teacher can be compared with its student's, token by token where a kind does so.

Legend: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_finetune.data.image_decoding import EncodedImage
from hf_finetune.data.image_processing import check_augmentable, probe_indices
from hf_finetune.data.inputs import ImageInputs, Inputs, TextInputs
from hf_finetune.distillation.config import DistillationKind, FeatureKind, TokenKind
from hf_finetune.distillation.feature_loss import required_features
from hf_finetune.distillation.losses.base import Networks
from hf_finetune.distillation.teachers.network import NetworkTeacher
from hf_finetune.errors import InputError
from hf_finetune.models.processors import positions_of
from hf_finetune.training.flops import patches

INSTEAD = "take kinds that compare rows (Embedding, RelationalKD, Contrastive)"


def check_features(
    teacher: NetworkTeacher, kinds: Sequence[DistillationKind], inputs: Inputs, model: PreTrainedModel, rows: Dataset
) -> None:
    """Refuse kinds that the two networks, or what turns rows into their inputs, do not go with.

    Args:
        inputs, model: the student's.
        rows: of the training data.

    Raises:
        InputError: naming the kind, what stands against it, and the remedy.
    """
    network = teacher.classifier.model
    reads_prompts = isinstance(network, PeftModel) and network.active_peft_config.is_prompt_learning
    for place, kind in enumerate(kinds):
        if not isinstance(kind, FeatureKind):
            continue
        try:
            if reads_prompts:
                raise InputError(
                    f"{teacher.name} reads prompts before every row, the student none; take another teacher"
                )
            required_features(kind, Networks(model.config, teacher.model.config))
            if isinstance(kind, TokenKind):
                _check_tokens(teacher, inputs, model, rows)
        except InputError as error:
            raise InputError(f"objective.kinds[{place}]: {error}") from error


def _check_tokens(teacher: NetworkTeacher, inputs: Inputs, model: PreTrainedModel, rows: Dataset) -> None:
    teacher_inputs = teacher.classifier.inputs
    if isinstance(inputs, TextInputs) and isinstance(teacher_inputs, TextInputs):
        _check_texts(teacher, inputs, teacher_inputs.tokenizer, rows)
    elif isinstance(inputs, ImageInputs) and isinstance(teacher_inputs, ImageInputs):
        _check_images(teacher, inputs, teacher_inputs, model, rows.select(probe_indices(len(rows)))["image"][:])


def _check_texts(
    teacher: NetworkTeacher, inputs: TextInputs, tokenizer: PreTrainedTokenizerBase, rows: Dataset
) -> None:
    own_tokenizer, sample = inputs.tokenizer, rows.select(range(min(200, len(rows))))
    batch = {name: sample[name][:] for name in ("text", "text_pair") if name in sample.column_names}
    own, theirs = (
        TextInputs(t, inputs.max_length).encode_batch(batch)["input_ids"] for t in (own_tokenizer, tokenizer)
    )
    if own_tokenizer.get_vocab() != tokenizer.get_vocab() or own != theirs:
        raise InputError(
            f"it compares token by token, and {teacher.name} cuts texts into other ones than the student; {INSTEAD}, "
            "or a teacher of the same tokenizer"
        )
    if "text_pair" in batch and "token_type_ids" in {*tokenizer.model_input_names} - {*own_tokenizer.model_input_names}:
        raise InputError(f"{teacher.name} reads which text of a pair a token is of, the student does not; {INSTEAD}")
    limit = positions_of(teacher.model)
    if limit is not None and limit < inputs.max_length:
        raise InputError(
            f"{teacher.name} has positions for {limit} tokens, and data.max_length is {inputs.max_length}; give "
            f"{limit} or less"
        )


def _check_images(
    teacher: NetworkTeacher,
    inputs: ImageInputs,
    teacher_inputs: ImageInputs,
    model: PreTrainedModel,
    images: list[EncodedImage],
) -> None:
    for each in (inputs, teacher_inputs):
        check_augmentable(each.processor, images, "the pixels beside this teacher")
    own_BCHW, theirs_BCHW = (each.collate({"image": images})["pixel_values"] for each in (inputs, teacher_inputs))
    counts = [
        patches(config, tuple(x_BCHW.shape[1:]))
        for config, x_BCHW in ((model.config, own_BCHW), (teacher.model.config, theirs_BCHW))
    ]
    if own_BCHW.shape != theirs_BCHW.shape or counts[0] != counts[1]:
        own_size, size = (
            f"{count} patches of {tuple(x_BCHW.shape[-2:])} pixels"
            for count, x_BCHW in zip(counts, (own_BCHW, theirs_BCHW), strict=True)
        )
        raise InputError(
            f"it compares patch by patch, and {teacher.name} reads {size}, the student {own_size}; {INSTEAD}, or a "
            "teacher of as many"
        )
    if not torch.allclose(PixelScaling.between(inputs, teacher_inputs)(own_BCHW), theirs_BCHW, atol=1e-3):
        raise InputError(f"the processor of {teacher.name} resizes images in another way than the student's; {INSTEAD}")


@dataclass(frozen=True)
class PixelScaling:
    """From one processor's normalized pixels to another's."""

    scale_C11: torch.Tensor
    shift_C11: torch.Tensor

    @classmethod
    def between(cls, inputs: ImageInputs, other: ImageInputs) -> PixelScaling:
        """Derive it from what the two make of black and of white."""
        ends = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 1, 1)
        (black, white), (other_black, other_white) = (
            each.collate({"pixels": ends})["pixel_values"] for each in (inputs, other)
        )
        scale = (other_white - other_black) / (white - black)
        return cls(scale, other_black - scale * black)

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Scale pixels (B, 3, H, W)."""
        return pixels_BCHW * self.scale_C11.to(pixels_BCHW.device) + self.shift_C11.to(pixels_BCHW.device)
