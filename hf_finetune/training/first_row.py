"""A row of our own through a classifier before any of the data: the libraries use many settings only then."""

import io

import numpy as np
from datasets import Dataset
from torch import nn

from hf_finetune.data.inputs import ImageInputs, Inputs, Rows, columns_of
from hf_finetune.evaluation.logits import predict_logits
from hf_finetune.models.contexts import input_errors

SIDE = 64
"""Width and height of the image, in pixels."""


def check_first_row(name: str, model: nn.Module, inputs: Inputs) -> None:
    """Compute the logits of a short text, or of a gray image.

    Not of an image where the processor leaves its size: only the data's may have the one that the model takes.

    Args:
        name: of the checkpoint, for messages.

    Raises:
        InputError: a library fails on a setting of the config, the tokenizer or the image processor.
    """
    if isinstance(inputs, ImageInputs) and not inputs.processor.to_dict().get("do_resize"):
        return
    with input_errors(f"{name}: it cannot classify; its config, or that of its tokenizer or processor, is damaged"):
        rows = Rows(inputs.encode_in_memory(_row(inputs)), columns_of(inputs, labels=False))
        predict_logits(model, rows, inputs.collate)


def _row(inputs: Inputs) -> Dataset:
    if not isinstance(inputs, ImageInputs):
        return Dataset.from_dict({"text": ["a"], "row": [0]})
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE, 3), 127, np.uint8)).save(file, "PNG")
    return Dataset.from_dict({"image": [{"bytes": file.getvalue(), "path": None}], "row": [0]})
