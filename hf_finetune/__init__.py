"""Fine-tune text and image classifiers, with evidence for every claim.

`train(data)` returns a `Classifier`, which predicts, evaluates and pushes. A recipe needs no deeper import:
`from hf_finetune import Recipe, TextData, SwapWords, Distill`. A name is imported when it is first used.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

# fmt: off
# isort: off
if TYPE_CHECKING:  # for editors and type checkers; a test holds it to what is imported below
    from hf_finetune.augmentation.compose import Compose, OneOf, Phases, Sometimes
    from hf_finetune.augmentation.image.color import AutoContrast, ColorJitter, Equalize, Grayscale, Identity, Invert
    from hf_finetune.augmentation.image.color import Posterize, Solarize
    from hf_finetune.augmentation.image.geometry import Crop, Flip, Perspective, ResizedCrop, Rotate, Scale, Shear
    from hf_finetune.augmentation.image.geometry import Translate
    from hf_finetune.augmentation.image.presets import AugMix, AutoAugment, Mild, RandAugment, ThreeAugment
    from hf_finetune.augmentation.image.presets import TrivialAugment
    from hf_finetune.augmentation.image.quality import Blur, Erase, Jpeg, Noise, Sharpness
    from hf_finetune.augmentation.mixing import CutMix, Mixup, ResizeMix
    from hf_finetune.augmentation.text.characters import ChangeCase, KeyboardTypos, OcrConfusions
    from hf_finetune.augmentation.text.operations import BackTranslate, SubstituteByModel
    from hf_finetune.augmentation.text.pairs import SwapPair
    from hf_finetune.augmentation.text.presets import Aeda, Eda
    from hf_finetune.augmentation.text.sentences import MixHalves, ShuffleSentences
    from hf_finetune.augmentation.text.sequences import ReverseComplement
    from hf_finetune.augmentation.text.words import CutSpan, DeleteWords, InsertWords, ReplaceSynonyms, SwapWords
    from hf_finetune.utils.embedded import BBC_LICENSE, TWEMOJI_LICENSE, bbc_headlines, bbc_news, minilm, twemoji
    from hf_finetune.cli.main import main
    from hf_finetune.config.recipe import Averaging, Batching, Evaluate, Hub, ImageData, Launch, Lora, Model, Precision
    from hf_finetune.config.recipe import Recipe, Regularize, Schedule, TextData, Train
    from hf_finetune.data.config import DataLimits
    from hf_finetune.data.long.config import Auto, Chunk, HeadTail, Sliding, Truncate
    from hf_finetune.distillation.config import AttentionMaps, AttentionRelations, Contrastive, DecoupledKD, Distill
    from hf_finetune.distillation.config import Embedding, HardLabel, HiddenStates, MatchLogits, RelationalKD
    from hf_finetune.distillation.config import SoftTargets
    from hf_finetune.distillation.weight_schedules import Ramp
    from hf_finetune.errors import GateError, InputError, PushError, StoppedBySignal, TrainingError
    from hf_finetune.evaluation.paired import paired_difference, verdict
    from hf_finetune.features.config import BoostedTrees, CharacterTfidf, Classical, ClusterDistances, ColorHistogram
    from hf_finetune.features.config import DecisionTree, EncoderFeatures, GradientHistogram, HashedNgrams, LinearModel
    from hf_finetune.features.config import LinearSVM, NaiveBayes, NearestMean, NearestNeighbors, NominalColumns
    from hf_finetune.features.config import NumberColumns, Pixels, RandomForest, ReduceFeatures, RowStatistics
    from hf_finetune.features.config import ScaleFeatures, TextCounts, VarianceThreshold, WordOverlap, WordTfidf
    from hf_finetune.features.config import Extraction
    from hf_finetune.inference.classifier import Classifier
    from hf_finetune.inference.comparison import compare_runs
    from hf_finetune.inference.feature_table import extract_features
    from hf_finetune.inference.result import Result
    from hf_finetune.models.config import CheckpointLimits
    from hf_finetune.models.efficientnet_lite import efficientnet_lite0
    from hf_finetune.models.own_tokenizers import BpeTokenizer, CharacterTokenizer, KmerTokenizer
    from hf_finetune.models.surgery.operations import AddLayers, DropLayers, DuplicateLayers, ExtendPositions
    from hf_finetune.models.surgery.operations import GatherMean, KeepLayers, LayerDrop, NarrowHidden, ReinitTopLayers
    from hf_finetune.models.surgery.operations import ResizeFeedForward, ResizeImage, ResizePatches, SetActivation
    from hf_finetune.models.surgery.operations import SetAttention, SetDropout, SetKernelSize, SetPooling
    from hf_finetune.models.surgery.operations import StochasticDepth
    from hf_finetune.pretraining.config import MAE, MaskedLanguage, Pretrain, SimCLR, SimCSE, SimMIM
    from hf_finetune.training.losses.config import AbsoluteError, Asymmetric, Balanced, BinaryCrossEntropy, Coral
    from hf_finetune.training.losses.config import CrossEntropy, EffectiveNumber, Focal, Huber, PerClass, PolyLoss
    from hf_finetune.training.losses.config import SquaredError, Supervised
    from hf_finetune.training.optim.config import Adafactor, AdamW, AdamW8bit, Adan, Lion, Muon, Optim, SGD
    from hf_finetune.training.optim.config import ScheduleFree
    from hf_finetune.training.regularization.config import ElasticNet, GradientNoise
    from hf_finetune.config.compress import Compress
    from hf_finetune.config.search import Search
    from hf_finetune.search.checkpoints.rank import rank_checkpoints
    from hf_finetune.search.fine_tuning import train
    from hf_finetune.search.plan_recipe import plan
    from hf_finetune.search.run import run

__all__ = [  # noqa: RUF022
    "AbsoluteError", "Adafactor", "AdamW", "AdamW8bit", "Adan", "AddLayers", "Aeda", "Asymmetric", "AttentionMaps",
    "AttentionRelations", "AugMix", "Auto", "AutoAugment", "AutoContrast", "Averaging", "BBC_LICENSE", "BackTranslate",
    "Balanced", "Batching", "BinaryCrossEntropy", "Blur", "BoostedTrees", "BpeTokenizer", "ChangeCase",
    "CharacterTfidf", "CharacterTokenizer", "CheckpointLimits", "Chunk", "Classical", "Classifier", "ClusterDistances",
    "ColorHistogram", "ColorJitter", "Compose", "Compress", "Contrastive", "Coral", "Crop", "CrossEntropy", "CutMix",
    "CutSpan", "DataLimits", "DecisionTree", "DecoupledKD", "DeleteWords", "Distill", "DropLayers", "DuplicateLayers",
    "Eda", "EffectiveNumber", "ElasticNet", "Embedding", "EncoderFeatures", "Equalize", "Erase", "Evaluate",
    "ExtendPositions", "Extraction", "Flip", "Focal", "GateError", "GatherMean", "GradientHistogram", "GradientNoise",
    "Grayscale", "HardLabel", "HashedNgrams", "HeadTail", "HiddenStates", "Hub", "Huber", "Identity", "ImageData",
    "InputError", "InsertWords", "Invert", "Jpeg", "KeepLayers", "KeyboardTypos", "KmerTokenizer", "Launch",
    "LayerDrop", "LinearModel", "LinearSVM", "Lion", "Lora", "MAE", "MaskedLanguage", "MatchLogits", "Mild",
    "MixHalves", "Mixup", "Model", "Muon", "NaiveBayes", "NarrowHidden", "NearestMean", "NearestNeighbors", "Noise",
    "NominalColumns", "NumberColumns", "OcrConfusions", "OneOf", "Optim", "PerClass", "Perspective", "Phases", "Pixels",
    "PolyLoss", "Posterize", "Precision", "Pretrain", "PushError", "Ramp", "RandAugment", "RandomForest", "Recipe",
    "ReduceFeatures", "Regularize", "ReinitTopLayers", "RelationalKD", "ReplaceSynonyms", "ResizeFeedForward",
    "ResizeImage", "ResizeMix", "ResizePatches", "ResizedCrop", "Result", "ReverseComplement", "Rotate",
    "RowStatistics", "SGD", "Scale", "ScaleFeatures", "Schedule", "ScheduleFree", "Search", "SetActivation",
    "SetAttention", "SetDropout", "SetKernelSize", "SetPooling", "Sharpness", "Shear", "ShuffleSentences", "SimCLR",
    "SimCSE", "SimMIM", "Sliding", "SoftTargets", "Solarize", "Sometimes", "SquaredError", "StochasticDepth",
    "StoppedBySignal", "SubstituteByModel", "Supervised", "SwapPair", "SwapWords", "TWEMOJI_LICENSE", "TextCounts",
    "TextData", "ThreeAugment", "Train", "TrainingError", "Translate", "TrivialAugment", "Truncate",
    "VarianceThreshold", "WordOverlap", "WordTfidf", "bbc_headlines", "bbc_news", "compare_runs", "efficientnet_lite0",
    "extract_features", "main", "minilm", "paired_difference", "plan", "rank_checkpoints", "run", "train", "twemoji",
    "verdict",
]
# isort: on
# fmt: on


# The names that are no fields of a recipe.
_HOMES = {
    "CheckpointLimits": "hf_finetune.models.config",
    "Classifier": "hf_finetune.inference.classifier",
    "Extraction": "hf_finetune.features.config",
    "Result": "hf_finetune.inference.result",
    "efficientnet_lite0": "hf_finetune.models.efficientnet_lite",
    "compare_runs": "hf_finetune.inference.comparison",
    "extract_features": "hf_finetune.inference.feature_table",
    "main": "hf_finetune.cli.main",
    "paired_difference": "hf_finetune.evaluation.paired",
    "plan": "hf_finetune.search.plan_recipe",
    "rank_checkpoints": "hf_finetune.search.checkpoints.rank",
    "run": "hf_finetune.search.run",
    "train": "hf_finetune.search.fine_tuning",
    "verdict": "hf_finetune.evaluation.paired",
}


def __getattr__(name: str) -> Any:
    """Import a public name, or the current form of an old one (PEP 562)."""
    from hf_finetune.config.aliases import TYPES

    name = TYPES.get(name, name)
    if name not in __all__:
        raise AttributeError(f"module 'hf_finetune' has no attribute {name!r}")
    if name in _HOMES:
        import warnings
        from importlib import import_module

        with warnings.catch_warnings():
            # tqdm's, in a notebook without ipywidgets, which our progress does not need.
            warnings.filterwarnings("ignore", "IProgress not found")
            return getattr(import_module(_HOMES[name]), name)
    return _names_of_recipes()[name]


@cache
def _names_of_recipes() -> dict[str, Any]:
    """Return what a recipe can hold, its errors and the embedded data, by name."""
    from hf_finetune import errors
    from hf_finetune.config.recipe import Launch, Recipe
    from hf_finetune.utils import embedded
    from hf_finetune.utils.hints import configs_below

    return {**vars(errors), **vars(embedded), **configs_below(Recipe), **configs_below(Launch)}


def __dir__() -> list[str]:
    return list(__all__)
