"""Further pretraining of the checkpoint on rows without labels, before it is fine-tuned: cheap to import.

An objective lives in a module of its own in `pretraining.objectives`: its fields, which families it is for, and the
task that a network learns, see `pretraining.objectives.base`.
"""

from __future__ import annotations

from hf_finetune.pretraining.objectives.mae import MAE
from hf_finetune.pretraining.objectives.masked_language import MaskedLanguage
from hf_finetune.pretraining.objectives.simclr import SimCLR
from hf_finetune.pretraining.objectives.simcse import SimCSE
from hf_finetune.pretraining.objectives.simmim import SimMIM
from hf_finetune.utils.config import Choice, MaxSteps, OpenFraction, Positive, configclass

ImageObjective = SimMIM | MAE | SimCLR
PretrainObjective = MaskedLanguage | SimCSE | ImageObjective


@configclass
class Pretrain:
    """More pretraining of the checkpoint on rows without labels, before all else. With AdamW, a linear schedule, and
    the batches, seed, number format and `train.extra` of the run."""

    objective: Choice[PretrainObjective | None] = None
    """What is learned: MaskedLanguage or SimCSE of texts; SimMIM, MAE or SimCLR of images. None: the checkpoint is
    fine-tuned as it is."""
    rows: tuple[str, ...] = ()
    """More rows without labels, beside the training rows: files, folders or Hub ids, of which all splits but validation
    and test are read. What equals a validation or test row of the run is left out, and counted."""
    left_out: bool = True
    """Read the training rows that data.rows_per_class and data.max_train_rows leave out, too; their labels are not
    used."""
    learning_rate: Positive | None = None
    """Peak learning rate. None: by the papers, 5e-5 for MaskedLanguage, 3e-5 for SimCSE, 1e-4 for SimMIM, 1.5e-4 for
    MAE and SimCLR."""
    num_train_epochs: Positive = 3.0
    """Passes over the rows."""
    max_steps: MaxSteps = -1
    """Stop after this many optimizer steps, whatever the epochs. -1: by epochs."""
    held_out_fraction: OpenFraction = 0.05
    """Share of the rows that only measures the loss after each epoch, 1,000 rows at most; the best epoch counts."""
    compare: bool = False
    """Run the recipe without the stage as well, in DIR/without, with so many more epochs that it trains for as long as
    both stages together, and report the difference, row by row."""

    @property
    def rate(self) -> float:
        """Peak learning rate of the stage."""
        assert self.objective is not None, "there is a stage"
        return self.learning_rate or self.objective.learning_rate
