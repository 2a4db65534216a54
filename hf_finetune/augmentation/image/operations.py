"""The image operations that `data.augment` accepts, on uint8 images.

They run between the processor's resizing and its rescaling and normalization, and keep the size of an image.
"""

from hf_finetune.augmentation.image.color import ColorOperation
from hf_finetune.augmentation.image.geometry import GeometricOperation
from hf_finetune.augmentation.image.presets import ImagePreset
from hf_finetune.augmentation.image.quality import QualityOperation

ImageOperation = GeometricOperation | ColorOperation | QualityOperation | ImagePreset
