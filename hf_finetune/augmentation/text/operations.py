"""Augmentation of texts: what `data.augment` can hold for them, beside what `augmentation.compose` makes of it."""

from __future__ import annotations

from hf_finetune.augmentation.generative.back_translation import BackTranslate
from hf_finetune.augmentation.generative.masked_lm import SubstituteByModel
from hf_finetune.augmentation.text.characters import ChangeCase, KeyboardTypos, OcrConfusions
from hf_finetune.augmentation.text.presets import Aeda, Eda
from hf_finetune.augmentation.text.sentences import MixHalves, ShuffleSentences
from hf_finetune.augmentation.text.words import CutSpan, DeleteWords, InsertWords, ReplaceSynonyms, SwapWords

TextOperation = (
    SwapWords
    | DeleteWords
    | InsertWords
    | ReplaceSynonyms
    | CutSpan
    | KeyboardTypos
    | OcrConfusions
    | ChangeCase
    | ShuffleSentences
    | MixHalves
    | Eda
    | Aeda
    | SubstituteByModel
    | BackTranslate
)
