"""What a recipe can ask of the checkpoint before it is fine-tuned: more pretraining on rows without labels; cheap to import."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import MinLen

from hf_finetune.augmentation.compose import ImageAugmentation
from hf_finetune.augmentation.image.operations import Blur, Colour, Flip, Grayscale, ResizedCrop
from hf_finetune.utils.config import Choice, Count, MaxSteps, OpenFraction, Operations, Positive, configclass
from hf_finetune.utils.config_errors import Check

# SimCLR's own (arXiv:2002.05709, appendix A), at full strength.
TWO_VIEWS = (ResizedCrop(), Flip(), Colour(0.8, 0.8, 0.8, hue=0.2, p=0.8), Grayscale(p=0.2), Blur())


@configclass
class MaskedLanguage:
    """Of texts: guess words that are left out, other ones in every epoch (BERT, arXiv:1810.04805)."""

    share: OpenFraction = 0.15
    """Share of a text's tokens that are to be guessed, one word at least. Of ten such tokens eight are masked, one is exchanged
    for another and one stays."""
    whole_word: bool = True
    """Leave out whole words; else single tokens. Single tokens also in scripts that put no spaces between words (Chinese,
    Japanese, Thai, Lao, Khmer, Burmese), and of what has more than 8 tokens where that is more than the share."""
    span: Count = 1
    """Leave out runs of neighbouring words, their lengths drawn geometrically (p 0.2) up to this: 10 in SpanBERT
    (arXiv:1907.10529). As there, a run is masked, exchanged or stays as a whole. 1: single words."""


@configclass
class SimCSE:
    """Of texts: tell a text, under another dropout mask, from the others of its forward pass (arXiv:2104.08821)."""

    temperature: Positive = 0.05
    """Divides the cosine of two texts."""
    pooling: Literal["cls", "mean"] = "cls"
    """A text's vector: the state of its first token, or the mean over its tokens."""


@configclass
class SimMIM:
    """Of pictures: guess the pixels of patches that are left out (arXiv:2111.09886). For vit, deit and swin."""

    share: OpenFraction = 0.6
    """Share of a picture that is left out, in whole squares: one at least, and all but one at most."""
    block: Count = 32
    """Side in pixels of the squares that are left out together, rounded to whole patches; of small pictures half of their
    shorter side at most."""


@configclass
class MAE:
    """Of pictures: guess the pixels of patches that the encoder is not shown at all (arXiv:2111.06377). For vit, deit and
    dinov2, whose layers take any part of the patches; they compute no other."""

    share: OpenFraction = 0.75
    """Share of a picture's patches that is left out: one at least, and all but one at most."""
    normalise: bool = True
    """Guess each patch less its mean and divided by its standard deviation; else its pixels as they are."""
    decoder_layers: Count = 2
    """Layers of the decoder, which is thrown away afterwards. The paper's 2 fine-tune as well as its 8 (table 1a)."""
    decoder_width: (
        Annotated[int, Check(lambda n: n > 0 and n % 4 == 0, "a multiple of 4, or null for half the encoder's")] | None
    ) = None
    """Features of a token in the decoder, a multiple of 4. None: half as many as in the encoder, as the paper's 512 to 1,024."""


@configclass
class SimCLR:
    """Of pictures: tell a picture, changed in another way, from the others of its forward pass (arXiv:2002.05709). So what a
    row costs depends on the rows beside it, and the weights on how a step is cut into passes. For all families."""

    temperature: Positive = 0.1
    """Divides the cosine of two views."""
    projection: Count = 128
    """Outputs of the two layers that stand in the place of the head, which are thrown away afterwards."""
    augment: Annotated[Operations[ImageAugmentation], MinLen(1)] = TWO_VIEWS
    """Operations that make either view, as in `data.augment`. By default crops, mirror images, colours and blur, as in the
    paper; leave Flip out for pictures that a mirror makes another class of: digits, letters, signs."""


ImageObjective = SimMIM | MAE | SimCLR
PretrainObjective = MaskedLanguage | SimCSE | ImageObjective
# Peak learning rates of the papers for networks of BERT-base's size, at steps of about 32 rows. Those of MAE and SimCLR are the
# papers' base rates, which these multiply by rows / 256 while they start from random weights; SimCLR's is that of MoCo v3, which
# also contrasts views by AdamW (arXiv:2104.02057): its own paper has LARS. Not measured here.
LEARNING_RATE: dict[type, float] = {MaskedLanguage: 5e-5, SimCSE: 3e-5, SimMIM: 1e-4, MAE: 1.5e-4, SimCLR: 1.5e-4}


@configclass
class Pretrain:
    """More pretraining of the checkpoint on rows without labels, before all else. With AdamW, a linear schedule, and the
    batches, seed, number format and `train.extra` of the run."""

    objective: Choice[PretrainObjective | None] = None
    """What is learned: MaskedLanguage or SimCSE of texts; SimMIM, MAE or SimCLR of pictures. None: the checkpoint is fine-tuned
    as it is."""
    rows: tuple[str, ...] = ()
    """More rows without labels, beside the training rows: files, folders or Hub ids, of which all splits but validation and
    test are read. What equals a validation or test row of the run is left out, and counted."""
    left_out: bool = True
    """Read the training rows that data.rows_per_class and data.max_train_rows leave out, too; their labels are not used."""
    learning_rate: Positive | None = None
    """Peak learning rate. None: by the papers, 5e-5 for MaskedLanguage, 3e-5 for SimCSE, 1e-4 for SimMIM, 1.5e-4 for MAE and
    SimCLR."""
    num_train_epochs: Positive = 3.0
    """Passes over the rows."""
    max_steps: MaxSteps = -1
    """Stop after this many optimiser steps, whatever the epochs. -1: by epochs."""
    held_out_fraction: OpenFraction = 0.05
    """Share of the rows that only measures the loss after each epoch, 1,000 rows at most; the best epoch is kept."""
    compare: bool = False
    """Run the recipe without the stage as well, in DIR/without, with so many more epochs that it trains for as long as both
    stages together, and report the difference, row by row."""

    @property
    def rate(self) -> float:
        """Peak learning rate of the stage."""
        return self.learning_rate or LEARNING_RATE[type(self.objective)]
