"""What a run is: the sections of a recipe, each defined in the room of its subject, and the questions that they answer.

Sections are frozen dataclasses, cheap to import; the text below a field is the text of `--help`. A variant of a recipe
is `dataclasses.replace(recipe, ...)`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from hf_finetune.config.aliases import current
from hf_finetune.config.data import ImageData, TextData
from hf_finetune.distillation.config import Distill, DistillationKind
from hf_finetune.evaluation.config import Evaluate
from hf_finetune.models.config import Model
from hf_finetune.models.peft.config import Adapter, Lora
from hf_finetune.pretraining.config import Pretrain
from hf_finetune.training.config import Averaging, Batching, Precision, Train
from hf_finetune.training.losses.config import Supervised
from hf_finetune.training.optim.config import Optim
from hf_finetune.training.optim.schedule_config import Schedule
from hf_finetune.training.regularization.config import Regularize
from hf_finetune.utils.config import Choice, configclass, flag
from hf_finetune.utils.plain import merge

Method = Literal["full", "lora", "top", "head"]


@configclass
class Hub:
    """Where the result is published."""

    repo_id: Annotated[str | None, flag("--push")] = None
    """Repository on the Hub; created if needed. None: nothing is pushed."""
    private: bool = False
    """Make a new repository private."""
    revision: str | None = None
    """Branch to push to."""
    create_pr: bool = False
    """Open a pull request instead of committing."""
    license: str | None = None
    """License of the model, for the card."""
    language: str | None = None
    """Language of the texts (`en`), for the card."""


@configclass
class Recipe:
    """One run, from labeled data to a verified classifier."""

    name: str
    """Name of the run: of its folder under runs/, and of its card."""
    data: Choice[TextData | ImageData]
    model: Model
    method: Method = "full"
    """What trains: all weights, LoRA adapters and the head, the top layers and the head, or the head alone. A PEFT
    config in `adapter` takes precedence."""
    adapter: Adapter = None
    """A PEFT config, or its type alone for PEFT's defaults. None with method lora: see `lora`."""
    lora: Lora = Lora()
    """LoRA by its numbers, where `adapter` is None."""
    pretrain: Pretrain = Pretrain()
    objective: Choice[Supervised | Distill] = Supervised()
    regularize: Regularize = Regularize()
    train: Train = Train()
    batching: Batching = Batching()
    precision: Precision = Precision()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    averaging: Averaging = Averaging()
    evaluate: Evaluate = Evaluate()
    hub: Hub = Hub()

    @property
    def task(self) -> Literal["text-classification", "image-classification"]:
        """The Hub's name of the task."""
        return "text-classification" if isinstance(self.data, TextData) else "image-classification"

    @property
    def is_text(self) -> bool:
        """Whether it classifies texts, and not images."""
        return isinstance(self.data, TextData)

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher's predictions or features are learned."""
        return isinstance(self.objective, Distill)

    @property
    def distillation_kinds(self) -> tuple[DistillationKind, ...]:
        """What is learned of a teacher; () without one."""
        return self.objective.kinds if isinstance(self.objective, Distill) else ()

    @property
    def learns_prompts(self) -> bool:
        """Whether the adapter adds to the input, and not to weights."""
        return self.adapter is not None and self.adapter.is_prompt_learning

    @property
    def trained(self) -> str:
        """What result.json calls the method: full, top, head, or the PEFT type in lower case."""
        return self.method if self.adapter is None else str(self.adapter.peft_type.value).lower()

    @property
    def starts_from(self) -> str | None:
        """The checkpoint whose weights it begins with; None: with random ones alone."""
        return None if self.model.from_config is not None else self.model.checkpoint

    @property
    def fits_head(self) -> bool:
        """Whether the classification layer is fitted to the labels before training."""
        looked_at = not isinstance(self.objective, Distill) or self.objective.asks_labels
        return self.train.head_warm_start and self.model.from_config is None and looked_at

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained in place of the model's own weights."""
        return self.trained not in ("full", "top", "head")


@configclass
class Launch:
    """Where and how a recipe runs; no part of what it computes."""

    output: str | None = None
    """Folder of the run. Default: runs/<name>-<n>."""
    resume: bool = False
    """Resume the run in `output`."""
    num_processes: int | None = None
    """Number of processes. Default: one, or what `accelerate launch` started."""


def recipe_from_plain(plain: Any) -> Recipe:
    """Return the recipe that a recipe.json holds, of whatever version.

    Raises:
        InputError: an unknown field, or a value that does not fit.
    """
    blank = Recipe(name="", data=TextData(path=""), model=Model(checkpoint=""))
    return merge(blank, current(plain))
