"""What a problem type says of itself: its names, its defaults, what it reads and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hf_finetune.data.config import Activation, Kind, TaskName
from hf_finetune.errors import InputError
from hf_finetune.evaluation.metrics import Metric
from hf_finetune.models.checkpoint_config import ProblemType
from hf_finetune.models.checkpoint_config import Task as HubTask
from hf_finetune.training.losses.config import Loss


class TaskTraits:
    """The facts of a problem type, whatever its outputs, and the choices that they decide."""

    name: ClassVar[TaskName]
    problem_type: ClassVar[ProblemType]
    metrics: ClassVar[Mapping[str, Metric]]
    """All metrics by name, in the order of result.json."""
    epoch_metric: ClassVar[str]
    """The metric that chooses the best epoch by default."""
    summary: ClassVar[tuple[str, ...]]
    """Metrics of baselines and teachers, and of the table that a run prints."""
    judged_by: ClassVar[str]
    """The metric of paired comparisons with other models."""
    default_loss: ClassVar[Loss]
    other_losses: ClassVar[tuple[TaskName, ...]] = ()
    """Further tasks, whose losses fit as well."""
    has_classes: ClassVar[bool] = False
    """Whether a row has exactly one class, which many techniques read."""
    baseline_is_pipeline: ClassVar[bool] = False
    """Whether `Task.linear_baseline` is what method classical fits by default, with the same predictions."""
    has_words: ClassVar[bool] = False
    """Whether a row has a label for each of its words."""
    model_noun: ClassVar[str]
    """What the model is called on its card: `A text {}`."""
    purpose: ClassVar[str]
    """What it does, with the number of outputs, before their names."""
    rare_remedy: ClassVar[str | None] = None
    """Flags by which rare classes or tags are predicted more often. None: there are none."""
    per_class_noun: ClassVar[str] = "tag"
    """What `per_class` has scores of."""
    counted: ClassVar[str] = "row"
    """What is counted in `per_class`: what has a class or tag."""
    weighs_positives: ClassVar[bool] = False
    """Whether class weights are of having a tag against lacking it, and not of rows or words by their class."""
    has_rare: ClassVar[bool] = False
    """Whether a row is of a class, or of tags, that may be rare."""
    augments: ClassVar[bool] = True
    """Whether operations of augmentation leave the labels of a row as they are."""
    spread: ClassVar[str] = "entropy"
    """The measure of the labels of which a fitted head explains a share."""
    constant_fit: ClassVar[str] = "the frequencies of the labels"
    """The best prediction without an input, which explains nothing of them."""
    constant: ClassVar[str]
    """What `majority` predicts, for messages."""
    outputs: ClassVar[str]
    """What the labels name, for messages: classes, tags or target."""
    activation: ClassVar[Activation] = "softmax"
    """How logits become predictions, which says how two predictions of a row are compared."""
    rescales: ClassVar[bool] = False
    """Whether logits may be divided by a temperature, which changes no label."""
    always_used: ClassVar[tuple[str, ...]] = ()
    """Recipe fields that have an effect with this task also where `config.rules` says that they have none."""
    refuses: ClassVar[Mapping[str, str]] = {}
    """Recipe fields, and flags of predict and evaluate, that the task cannot have, and why: the end of a message."""

    def hub_task(self, kind: Kind) -> HubTask:
        """Return the Hub's name of the task, for the kind of data."""
        return "text-classification" if kind == "text" else "image-classification"

    @classmethod
    def explained(cls, share: float) -> str:
        """Return what a head fitted to frozen features predicts of held-out labels, in words.

        Args:
            share: see `FittedHead.explained`.
        """
        if share <= 0:
            return f"predicts held-out labels no better than {cls.constant_fit}"
        return f"explains {share:.2f} of the {cls.spread} of the labels"

    def choose_loss(self, loss: Loss | None) -> Loss:
        """Return the loss of a recipe, or the default.

        Raises:
            InputError: the loss is for another task.
        """
        chosen = self.default_loss if loss is None else loss
        if chosen.task not in (self.name, *self.other_losses):
            raise InputError(
                f"objective.loss: expected a loss for {self.name}, such as {type(self.default_loss).__name__}, got "
                f"{type(chosen).__name__}, which is for {chosen.task}"
            )
        return chosen

    def best_metric(self, requested: str | None) -> str:
        """Return the metric that chooses the best epoch.

        Raises:
            InputError: the requested one is no metric of this task.
        """
        if requested is not None and requested not in self.metrics:
            raise InputError(
                f"evaluate.metric: expected a metric of {self.name} ({', '.join(self.metrics)}), got {requested}"
            )
        return requested or self.epoch_metric

    def refuse(self, field: str, *, is_set: bool) -> None:
        """Refuse a field that the task cannot have.

        Raises:
            InputError: it is set.
        """
        if is_set and field in self.refuses:
            raise InputError(f"{field}: expected its default with {self.name}: {self.refuses[field]}")
