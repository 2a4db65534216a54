"""Classify images by the exported model beside this file, with the image processor of transformers.

python example.py photo.jpg other.png
"""

import sys

import numpy as np
from PIL import Image, ImageOps
from transformers import AutoImageProcessor

from hf_finetune.compression.examples.onnx import FOLDER, SETTINGS, compute

processor = AutoImageProcessor.from_pretrained(FOLDER)


def rgb(image: Image.Image) -> Image.Image:
    """Return an image in RGB. Gray values of more than 8 bits are scaled: Pillow would clip them to white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        gray = np.asarray(image, np.float64)
        white = 255 if image.mode in ("I", "F") else 65535
        if image.mode == "I" and gray.max() > 255:
            white = 65535
        elif image.mode == "F" and gray.max() <= 1:
            white = 1
        image = Image.fromarray(np.rint(np.nan_to_num(gray.clip(0, white)) * (255 / white)).astype(np.uint8))
    return image.convert("RGB")


def logits(paths: list) -> np.ndarray:
    """Return the logits of images: shape (images, classes)."""
    images = [rgb(ImageOps.exif_transpose(Image.open(path))) for path in paths]
    return compute({"pixel_values": processor(images, return_tensors="np")["pixel_values"]})


def answers(paths: list) -> list:
    """Return the class, the tags or the numbers."""
    values, labels = logits(paths), SETTINGS["labels"]
    if SETTINGS["activation"] == "identity":
        return [dict(zip(labels, map(float, row), strict=True)) for row in values]
    if SETTINGS["thresholds"]:
        cuts = np.array([SETTINGS["thresholds"][name] for name in labels])
        return [
            [name for name, p in zip(labels, row, strict=True) if p >= 0] for row in 1 / (1 + np.exp(-values)) - cuts
        ]
    return [labels[i] for i in values.argmax(-1)]


if __name__ == "__main__":
    for path, answer in zip(sys.argv[1:], answers(sys.argv[1:]), strict=True):
        print(f"{path}: {answer}")
