"""The optimizers that a recipe can name. Each has its own file."""

import importlib.util
from typing import Annotated, Literal, TypeAlias

from annotated_types import Interval

from hf_finetune.errors import InputError
from hf_finetune.training.optim.adafactor import Adafactor
from hf_finetune.training.optim.adamw import AdamW
from hf_finetune.training.optim.adamw_8bit import AdamW8bit
from hf_finetune.training.optim.adan import Adan
from hf_finetune.training.optim.lion import Lion
from hf_finetune.training.optim.muon import Muon
from hf_finetune.training.optim.schedule_free import ScheduleFree
from hf_finetune.training.optim.sgd import SGD
from hf_finetune.utils.config import Choice, NonNegative, Positive, configclass

Optimizer: TypeAlias = AdamW | SGD | Adafactor | Lion | Muon | ScheduleFree | AdamW8bit | Adan


@configclass
class Optim:
    """The optimizer and its learning rates."""

    optimizer: Choice[Optimizer] = AdamW()
    """The optimizer. The choices are listed at the end."""
    head_learning_rate: Positive | None = None
    """Peak learning rate of all layers above the encoder, and of weights that the checkpoint does not have. None: the
    same as the encoder's."""
    layer_decay: Annotated[float, Interval(gt=0, le=1)] | None = None
    """Factor of the learning rate from each encoder layer to the one below. 0.65 to 0.95 are usual. With L layers,
    counted from 0 at the bottom, the rate of layer k is multiplied by this to the power L - k. For the embeddings the
    power is L + 1. None: one rate."""
    lora_plus_ratio: Positive | None = None
    """Learning rate of LoRA's B matrices, as a multiple of the rate (LoRA+, arXiv:2402.12354). The paper uses 16. None:
    1."""
    word_embeddings: Literal["sparse", "dense", "frozen"] = "sparse"
    """sparse: train the embeddings of the words in the training texts, with the same update as dense. All other words
    keep their pretrained values. Without AdamW, or with online augmentation, all are trained. dense: train all. Weight
    decay shrinks unseen words, too. frozen: train none."""
    sam_rho: NonNegative = 0.0
    """Sharpness-aware minimization (SAM, arXiv:2010.01412): take each step's gradient at this distance uphill. A step
    costs twice as much. 0.05 is usual, 0.5 to 2 with `sam_adaptive`. 0: off."""
    sam_adaptive: bool = False
    """Measure `sam_rho` relative to the size of each weight (ASAM, arXiv:2102.11600)."""


def check_installed(optimizer: Optimizer) -> None:
    """Refuse an optimizer whose package is not installed.

    Raises:
        InputError: names the package and how to install it.
    """
    name, package = type(optimizer).__name__, optimizer.package
    if package is not None and importlib.util.find_spec(package) is None:
        raise InputError(f"optim.optimizer: {name} needs {package}: pip install {package}, or use AdamW")
