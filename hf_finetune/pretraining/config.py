"""Further pretraining of the checkpoint on unlabeled examples, before it is fine-tuned: cheap to import.

An objective is a module of its own in `pretraining.objectives`; `pretraining.objectives.base` has the contract.
"""

from hf_finetune.pretraining.objectives.mae import MAE
from hf_finetune.pretraining.objectives.masked_language import MaskedLanguage
from hf_finetune.pretraining.objectives.simclr import SimCLR
from hf_finetune.pretraining.objectives.simcse import SimCSE
from hf_finetune.pretraining.objectives.simmim import SimMIM
from hf_finetune.utils.config import Choice, Epochs, MaxSteps, OpenFraction, Positive, configclass

ImageObjective = SimMIM | MAE | SimCLR
PretrainObjective = MaskedLanguage | SimCSE | ImageObjective


@configclass
class Pretrain:
    """Further pretraining of the checkpoint on unlabeled examples, as the first stage of a run. It uses AdamW, a linear
    schedule, and the batches, seed, number format and `train.extra` of the run."""

    objective: Choice[PretrainObjective | None] = None
    """Pretraining objective. For texts: MaskedLanguage or SimCSE. For images: SimMIM, MAE or SimCLR. None: no further
    pretraining. Experimental: MaskedLanguage was measured once, and 1.2 points worse than fine-tuning for the same
    time, and the others were not measured (docs/benchmarks.md#continued-pretraining)."""
    rows: tuple[str, ...] = ()
    """More unlabeled examples, in addition to the training examples: files, folders or Hub ids, of which all splits but
    validation and test are read. Copies of the run's validation and test examples are left out, and counted."""
    left_out: bool = True
    """Also read the training examples that data.rows_per_class and data.max_train_rows leave out, without their
    labels."""
    learning_rate: Positive | None = None
    """Peak learning rate. None: that of the paper, 5e-5 for MaskedLanguage, 3e-5 for SimCSE, 1e-4 for SimMIM, 1.5e-4
    for MAE and SimCLR."""
    num_train_epochs: Epochs = 3.0
    """Passes over the examples."""
    max_steps: MaxSteps = -1
    """Stop after this many optimizer steps, whatever the epochs. -1: by epochs."""
    held_out_fraction: OpenFraction = 0.05
    """Share of the examples, 1,000 at most, on which the loss is measured after each epoch. The best epoch is kept."""
    compare: bool = False
    """Also run the recipe without pretraining, in DIR/without, for as much training time as both stages take, and
    report the paired difference."""

    @property
    def rate(self) -> float:
        """Peak learning rate of pretraining."""
        assert self.objective is not None, "the recipe pretrains"
        return self.learning_rate or self.objective.learning_rate
