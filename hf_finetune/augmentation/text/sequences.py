"""Operations on sequences of DNA and RNA."""

import numpy as np

from hf_finetune.augmentation.text.base import EachText
from hf_finetune.utils.config import Probability, configclass
from hf_finetune.utils.sequences import reverse_complement


@configclass
class ReverseComplement(EachText):
    """Read the other strand: the complement of each base, in reverse order. For DNA and RNA only."""

    p: Probability = 0.5
    """Probability of each sequence."""

    def change(self, text: str, rng: np.random.Generator) -> str:
        return reverse_complement(text) if rng.random() < self.p else text


SequenceOperation = ReverseComplement
