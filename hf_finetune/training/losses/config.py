"""The losses and class weights that a recipe can name. Each loss has its own file."""

from typing import TypeAlias

from hf_finetune.augmentation.mixing import Mixing
from hf_finetune.training.losses.absolute_error import AbsoluteError
from hf_finetune.training.losses.asymmetric import Asymmetric
from hf_finetune.training.losses.binary_cross_entropy import BinaryCrossEntropy
from hf_finetune.training.losses.class_weights import Balanced, EffectiveNumber, PerClass
from hf_finetune.training.losses.coral import Coral
from hf_finetune.training.losses.cross_entropy import CrossEntropy
from hf_finetune.training.losses.focal import Focal
from hf_finetune.training.losses.huber import Huber
from hf_finetune.training.losses.poly import PolyLoss
from hf_finetune.training.losses.squared_error import SquaredError
from hf_finetune.utils.config import Choice, Fraction, NonNegative, Operations, Positive, configclass

Loss: TypeAlias = (
    CrossEntropy | Focal | PolyLoss | Coral | BinaryCrossEntropy | Asymmetric | SquaredError | AbsoluteError | Huber
)
ClassWeights: TypeAlias = Balanced | EffectiveNumber | PerClass


@configclass
class Supervised:
    """The loss against the labels: a mean over the examples of a step, whatever the micro-batches and processes."""

    label_smoothing: Fraction = 0.0
    """Share of the target's probability that is spread evenly over all classes."""
    loss: Choice[Loss | None] = None
    """Loss of an example. The choices are listed at the end. Classes: CrossEntropy, Focal or PolyLoss; ordered classes:
    Coral, or those of classes; tags: BinaryCrossEntropy or Asymmetric; numbers: SquaredError, AbsoluteError or Huber.
    The default is the first of its task."""
    class_weights: Choice[ClassWeights | None] = None
    """Weight of an example's loss by its class: Balanced, EffectiveNumber or PerClass. The weights have a mean of 1
    over the training set, not over a batch. Tags: Balanced or PerClass, the weight of a tag where an example has it.
    The fitted head uses them, too. None: all classes weigh the same."""
    logit_adjustment: NonNegative = 0.0
    """Logit adjustment in training (arXiv:2007.07314): add this times the logarithm of its share to each class's logit.
    With 1 the model predicts as if all classes were equally frequent. 0: off."""
    r_drop: NonNegative = 0.0
    """R-Drop (arXiv:2106.14448). Forward every example twice with different dropout, and average the two losses. Add
    this times the symmetric KL divergence of the two predictions (of each tag's; of numbers, their squared difference).
    A step takes twice the work. 0: off."""
    contrast: Fraction = 0.0
    """Share of the supervised contrastive loss (arXiv:2004.11362, arXiv:2011.01403), for classes. Forward every example
    twice with different dropout; what the head reads of the examples of a class is drawn together, and apart from
    others of the batch. A step takes twice the work. 0: off."""
    contrast_temperature: Positive = 0.1
    """Temperature of that loss: cosines are divided by it."""
    mix: Operations[Mixing] = ()
    """Mix the examples of a batch, and their labels in the same proportion. For every forward pass one of these is
    drawn: Mixup (for texts, of word embeddings), CutMix or ResizeMix. See `augmentation.mixing`. The logged training
    loss is that of the mixtures. (): no mixing. Experimental: Mixup was undecided on movie reviews and emoji, and
    the others were not measured (docs/benchmarks.md#augmentation)."""
