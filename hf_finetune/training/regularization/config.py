"""Configuration of the regularization of the weights."""

from hf_finetune.utils.config import Fraction, NonNegative, configclass


@configclass
class ElasticNet:
    """L1 and L2 penalties on chosen weights, by a proximal step after each optimizer step: small weights become exactly
    0.

    With r the learning rate of the step, a weight w becomes sign(w) max(|w| - r l1, 0) / (1 + r l2) (Zou and Hastie
    2005, "Regularization and variable selection via the elastic net"; Parikh and Boyd 2014, "Proximal algorithms",
    6.5.3). L1 does not go with averages of the weights: what is 0 after some steps is not 0 in their mean, and a mean
    has no learning rate for a proximal step of its own."""

    l1: NonNegative = 0.0
    """A step moves each weight towards 0 by this times the learning rate. A weight that would cross 0 becomes 0. 0:
    off."""
    l2: NonNegative = 0.0
    """Share by which a step shrinks a weight, times the learning rate, in addition to `train.weight_decay`. 0: off."""
    parameters: tuple[str, ...] = ()
    """Patterns of parameter names (`*.attention.*.weight`). Empty: the weights of the classification layer."""

    @property
    def on(self) -> bool:
        """Whether any penalty is above 0."""
        return self.l1 > 0 or self.l2 > 0


@configclass
class GradientNoise:
    """Normal noise of variance eta / (1 + t)^gamma on every gradient of step t, after clipping (arXiv:1511.06807)."""

    eta: NonNegative = 0.0
    """Variance at the first step. The paper uses 0.01, 0.3 and 1. 0: off."""
    gamma: NonNegative = 0.55
    """Exponent of the decay of the variance."""


@configclass
class Regularize:
    """Regularization of the weights."""

    elastic_net: ElasticNet = ElasticNet()
    """Pull chosen weights to exactly 0."""
    mixout: Fraction = 0.0
    """Mixout (arXiv:1909.11299). Each training step replaces this share of the encoder's weights by the pretrained
    ones, drawn anew each time. It stands in place of dropout, so set `model.dropout` to 0. For methods full and top. 0:
    off."""
    gradient_noise: GradientNoise = GradientNoise()
    """Normal noise on the gradients, which falls over the training (arXiv:1511.06807)."""
