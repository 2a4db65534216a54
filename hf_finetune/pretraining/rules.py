"""Rules of further pretraining."""

from typing import Protocol

from hf_finetune.augmentation.compose import Augmentation, Phases, Sometimes, walk
from hf_finetune.pretraining.config import ImageObjective, Pretrain, SimCLR, SimCSE
from hf_finetune.training.rules import TrainingRecipe
from hf_finetune.utils import rules


class PretrainingRecipe(TrainingRecipe, Protocol):
    """The part of a recipe that these rules read."""

    @property
    def pretrain(self) -> Pretrain: ...


Conflict = rules.Conflict[PretrainingRecipe]
Unused = rules.Unused[PretrainingRecipe]


def _view_operations(recipe: PretrainingRecipe) -> list[Augmentation]:
    objective = recipe.pretrain.objective
    return list(walk(objective.augment)) if isinstance(objective, SimCLR) else []


CONFLICTS = rules.only_when(
    lambda r: r.pretrain.objective is not None,
    Conflict(
        "pretrain.objective",
        "MaskedLanguage or SimCSE for texts",
        lambda r: r.kind == "text" and isinstance(r.pretrain.objective, ImageObjective),
    ),
    Conflict(
        "pretrain.objective",
        "SimMIM, MAE or SimCLR for images",
        lambda r: r.kind == "image" and not isinstance(r.pretrain.objective, ImageObjective),
    ),
    Conflict(
        "train.per_device_train_batch_size",
        "2 or more with SimCSE and SimCLR, which contrast each example with the others of its batch",
        lambda r: isinstance(r.pretrain.objective, SimCSE | SimCLR) and r.train.per_device_train_batch_size < 2,
    ),
    Conflict(
        "pretrain.objective.augment",
        "by_class all: rows have no classes in pretraining",
        lambda r: any(isinstance(o, Sometimes) and o.by_class == "rare" for o in _view_operations(r)),
    ),
    Conflict(
        "pretrain.objective.augment",
        "operations without Phases, which are for data.augment",
        lambda r: any(isinstance(o, Phases) for o in _view_operations(r)),
    ),
    Conflict(
        "train.early_stopping_patience",
        "None with pretrain.compare: both runs must train for the same time",
        lambda r: r.pretrain.compare,
    ),
    Conflict(
        "model.surgery",
        "none with pretrain.objective; operate in a second run, whose --model is the pretrained/ of this one",
    ),
    Conflict(
        "model.from_config",
        "null with pretrain.objective, which needs a checkpoint, or a model.tokenizer",
        lambda r: r.model.tokenizer is None,
    ),
    Conflict("model.trust_remote_code", "false with pretrain.objective, which supports stock families"),
    Conflict(
        "adapter.peft_type",
        "another adapter with pretrain.objective: this one cannot be merged into the pretrained checkpoint",
        lambda r: r.uses_prompt_learning,
    ),
)
UNUSED = (
    *(
        Unused(f"pretrain.{name}", "pretrain.objective is not set", lambda r: r.pretrain.objective is None)
        for name in ("rows", "learning_rate", "num_train_epochs", "max_steps", "held_out_fraction", "compare")
    ),
    Unused(
        "pretrain.num_train_epochs", "pretrain.max_steps says when the stage ends", lambda r: r.pretrain.max_steps > 0
    ),
)
