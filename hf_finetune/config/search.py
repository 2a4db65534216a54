"""Options of what tries several variants of a recipe: method auto, several seeds, and `search`."""

from typing import Annotated, Literal

from hf_finetune.utils.config import Count, Duration, configclass, flag

Preset = Literal["fast", "good", "best"]


@configclass
class Search:
    """How variants of the recipe are tried and compared."""

    budget: Annotated[Duration | None, flag("--budget")] = None
    """Time of the whole command: 90s, 10m, 1h30m. Method auto tries what is worth its time, and ends with the best
    model so far. None: 5m with method auto and no preset, 10m of `search augmentation`."""
    preset: Annotated[Preset | None, flag("--preset")] = None
    """How far method auto goes, without a limit of time unless there is a budget. fast: simple models and a linear head
    on frozen features. good: also full fine-tuning. best: also the top layers and LoRA. It sets method auto."""
    candidates: Annotated[tuple[str, ...], flag("--candidates")] = ()
    """Checkpoints, Hub ids or folders, that method auto compares by cross-validated heads on their frozen features. The
    best one takes the place of model.checkpoint; a larger one only if it is better by a paired test."""
    ensemble: Annotated[bool, flag("--ensemble")] = False
    """At the end of method auto: if the mean of some of its models is better than the best one by a paired test, train
    a network that learns from these models. It is the result if it is better, too."""
    seeds: Annotated[Count | None, flag("--seeds")] = None
    """Runs of the recipe that differ in train.seed: it and those after it. The result is the run of the first, with the
    mean and interval over rows and seeds. In `search augmentation`: pairs of final runs."""
