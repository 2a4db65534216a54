"""The text operations that `data.augment` accepts, in addition to the combinators of `augmentation.compose`."""

from hf_finetune.augmentation.generative.back_translation import BackTranslate
from hf_finetune.augmentation.generative.masked_lm import SubstituteByModel
from hf_finetune.augmentation.text.characters import CharacterOperation
from hf_finetune.augmentation.text.pairs import SwapPair
from hf_finetune.augmentation.text.presets import TextPreset
from hf_finetune.augmentation.text.sentences import SentenceOperation
from hf_finetune.augmentation.text.sequences import SequenceOperation
from hf_finetune.augmentation.text.words import WordOperation

LanguageOperation = (
    WordOperation | CharacterOperation | SentenceOperation | SwapPair | TextPreset | SubstituteByModel | BackTranslate
)
TextOperation = LanguageOperation | SequenceOperation
