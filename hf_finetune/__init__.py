"""Fine-tune text and image classifiers, with evidence for every claim.

A recipe needs no deeper import: `from hf_finetune import Recipe, TextData, SwapWords, Distill`. A name is imported when
it is first used.
"""

from typing import TYPE_CHECKING, Any

# fmt: off
# isort: off
if TYPE_CHECKING:  # for editors and type checkers; a test holds it to what is imported below
    from hf_finetune.augmentation.compose import Compose, OneOf, Phases, Sometimes
    from hf_finetune.augmentation.generative.back_translation import BackTranslate
    from hf_finetune.augmentation.generative.masked_lm import SubstituteByModel
    from hf_finetune.augmentation.image.color import AutoContrast, ColorJitter, Equalize, Grayscale, Identity, Invert
    from hf_finetune.augmentation.image.color import Posterize, Solarize
    from hf_finetune.augmentation.image.geometry import Crop, Flip, Perspective, ResizedCrop, Rotate, Scale, Shear
    from hf_finetune.augmentation.image.geometry import Translate
    from hf_finetune.augmentation.image.presets import AugMix, AutoAugment, Mild, RandAugment, ThreeAugment
    from hf_finetune.augmentation.image.presets import TrivialAugment
    from hf_finetune.augmentation.image.quality import Blur, Erase, Jpeg, Noise, Sharpness
    from hf_finetune.augmentation.mixing import CutMix, Mixup, ResizeMix
    from hf_finetune.augmentation.text.characters import ChangeCase, KeyboardTypos, OcrConfusions
    from hf_finetune.augmentation.text.presets import Aeda, Eda
    from hf_finetune.augmentation.text.sentences import MixHalves, ShuffleSentences
    from hf_finetune.augmentation.text.words import CutSpan, DeleteWords, InsertWords, ReplaceSynonyms, SwapWords
    from hf_finetune.cli.embedded import BBC_LICENSE, bbc_news, minilm
    from hf_finetune.cli.main import main
    from hf_finetune.config.data import ImageData, TextData
    from hf_finetune.config.recipe import Hub, Launch, Recipe
    from hf_finetune.distillation.config import Distill
    from hf_finetune.distillation.losses.attention_maps import AttentionMaps
    from hf_finetune.distillation.losses.attention_relations import AttentionRelations
    from hf_finetune.distillation.losses.contrastive import Contrastive
    from hf_finetune.distillation.losses.decoupled_kd import DecoupledKD
    from hf_finetune.distillation.losses.embedding import Embedding
    from hf_finetune.distillation.losses.hard_label import HardLabel
    from hf_finetune.distillation.losses.hidden_states import HiddenStates
    from hf_finetune.distillation.losses.match_logits import MatchLogits
    from hf_finetune.distillation.losses.relational_kd import RelationalKD
    from hf_finetune.distillation.losses.soft_targets import SoftTargets
    from hf_finetune.distillation.weight_schedules import Ramp
    from hf_finetune.errors import GateError, InputError, PushError, StoppedBySignal, TrainingError
    from hf_finetune.evaluation.config import Evaluate
    from hf_finetune.models.config import Model
    from hf_finetune.models.peft.config import Lora
    from hf_finetune.models.surgery.activation import SetActivation
    from hf_finetune.models.surgery.attention import SetAttention
    from hf_finetune.models.surgery.dropout import SetDropout
    from hf_finetune.models.surgery.feed_forward import ResizeFeedForward
    from hf_finetune.models.surgery.hidden_width import NarrowHidden
    from hf_finetune.models.surgery.kernel_size import SetKernelSize
    from hf_finetune.models.surgery.layers import AddLayers, DropLayers, DuplicateLayers, KeepLayers
    from hf_finetune.models.surgery.patches import ResizeImage, ResizePatches
    from hf_finetune.models.surgery.pooling import SetPooling
    from hf_finetune.models.surgery.positions import ExtendPositions
    from hf_finetune.models.surgery.reinit import ReinitTopLayers
    from hf_finetune.models.surgery.stochastic_depth import LayerDrop, StochasticDepth
    from hf_finetune.pipeline.run import run
    from hf_finetune.pretraining.config import Pretrain
    from hf_finetune.pretraining.objectives.mae import MAE
    from hf_finetune.pretraining.objectives.masked_language import MaskedLanguage
    from hf_finetune.pretraining.objectives.simclr import SimCLR
    from hf_finetune.pretraining.objectives.simcse import SimCSE
    from hf_finetune.pretraining.objectives.simmim import SimMIM
    from hf_finetune.training.config import Averaging, Batching, Precision, Train
    from hf_finetune.training.losses.class_weights import Balanced, EffectiveNumber, PerClass
    from hf_finetune.training.losses.config import Supervised
    from hf_finetune.training.losses.cross_entropy import CrossEntropy
    from hf_finetune.training.losses.focal import Focal
    from hf_finetune.training.losses.poly import PolyLoss
    from hf_finetune.training.optim.adafactor import Adafactor
    from hf_finetune.training.optim.adamw import AdamW
    from hf_finetune.training.optim.adamw_8bit import AdamW8bit
    from hf_finetune.training.optim.adan import Adan
    from hf_finetune.training.optim.config import Optim
    from hf_finetune.training.optim.lion import Lion
    from hf_finetune.training.optim.muon import Muon
    from hf_finetune.training.optim.schedule_config import Schedule
    from hf_finetune.training.optim.schedule_free import ScheduleFree
    from hf_finetune.training.optim.sgd import SGD
    from hf_finetune.training.regularization.config import ElasticNet, GradientNoise, Regularize

__all__ = [  # noqa: RUF022
    "Adafactor", "AdamW", "AdamW8bit", "Adan", "AddLayers", "Aeda", "AttentionMaps", "AttentionRelations", "AugMix",
    "AutoAugment", "AutoContrast", "Averaging", "BBC_LICENSE", "BackTranslate", "Balanced", "Batching", "Blur",
    "ChangeCase", "ColorJitter", "Compose", "Contrastive", "Crop", "CrossEntropy", "CutMix", "CutSpan", "DecoupledKD",
    "DeleteWords", "Distill", "DropLayers", "DuplicateLayers", "Eda", "EffectiveNumber", "ElasticNet", "Embedding",
    "Equalize", "Erase", "Evaluate", "ExtendPositions", "Flip", "Focal", "GateError", "GradientNoise", "Grayscale",
    "HardLabel", "HiddenStates", "Hub", "Identity", "ImageData", "InputError", "InsertWords", "Invert", "Jpeg",
    "KeepLayers", "KeyboardTypos", "Launch", "LayerDrop", "Lion", "Lora", "MAE", "MaskedLanguage", "MatchLogits",
    "Mild", "MixHalves", "Mixup", "Model", "Muon", "NarrowHidden", "Noise", "OcrConfusions", "OneOf", "Optim",
    "PerClass", "Perspective", "Phases", "PolyLoss", "Posterize", "Precision", "Pretrain", "PushError", "Ramp",
    "RandAugment", "Recipe", "Regularize", "ReinitTopLayers", "RelationalKD", "ReplaceSynonyms", "ResizeFeedForward",
    "ResizeImage", "ResizeMix", "ResizePatches", "ResizedCrop", "Rotate", "SGD", "Scale", "Schedule", "ScheduleFree",
    "SetActivation", "SetAttention", "SetDropout", "SetKernelSize", "SetPooling", "Sharpness", "Shear",
    "ShuffleSentences", "SimCLR", "SimCSE", "SimMIM", "SoftTargets", "Solarize", "Sometimes", "StochasticDepth",
    "StoppedBySignal", "SubstituteByModel", "Supervised", "SwapWords", "TextData", "ThreeAugment", "Train",
    "TrainingError", "Translate", "TrivialAugment", "bbc_news", "main", "minilm", "run",
]
# isort: on
# fmt: on


def __getattr__(name: str) -> Any:
    """Import a public name, or the current form of an old one (PEP 562)."""
    from hf_finetune.config.aliases import TYPES

    name = TYPES.get(name, name)
    if name not in __all__:
        raise AttributeError(f"module 'hf_finetune' has no attribute {name!r}")
    if name == "main":
        from hf_finetune.cli.main import main

        return main
    if name == "run":
        from hf_finetune.pipeline.run import run

        return run
    from hf_finetune import errors
    from hf_finetune.cli import embedded
    from hf_finetune.config.recipe import Launch, Recipe
    from hf_finetune.utils.hints import configs_below

    return {**vars(errors), **vars(embedded), **configs_below(Recipe), **configs_below(Launch)}[name]


def __dir__() -> list[str]:
    return list(__all__)
