"""Augmentation of texts: what `data.augment` can hold for them, beside what `data.compose` makes of it."""

from __future__ import annotations

from hf_finetune.data.text_characters import ChangeCase, KeyboardTypos, OcrConfusions
from hf_finetune.data.text_models import BackTranslate, SubstituteByModel
from hf_finetune.data.text_presets import Aeda, Eda
from hf_finetune.data.text_sentences import MixHalves, ShuffleSentences
from hf_finetune.data.text_words import CutSpan, DeleteWords, InsertWords, ReplaceSynonyms, SwapWords

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
