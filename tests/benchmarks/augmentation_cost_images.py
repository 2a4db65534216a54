"""What augmentation of pictures costs: pictures a second on one core, every operation and preset on every picture.

    OMP_NUM_THREADS=1 python tests/benchmarks/augmentation_cost_images.py [--size 224] [--rows 32] [--seconds 2]
    [--only Blur]

Batches of noise with p=1; the bound is 300 pictures a second at 224 pixels. Seconds are those of the process, so that
what else runs on the machine counts little. `augmented` pictures stand beside `decoded` ones: a JPEG of the same size
decoded and resized as without augmentation.
"""

import argparse
import dataclasses
import io
import time
import typing
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from hf_finetune.augmentation.image.color import ColorJitter
from hf_finetune.augmentation.image.geometry import Shear
from hf_finetune.augmentation.image.operations import ImageOperation
from hf_finetune.augmentation.image.presets import AutoAugment, RandAugment
from hf_finetune.augmentation.image.quality import Blur
from hf_finetune.augmentation.operations import ImageBatch, generators
from hf_finetune.utils.plain import short_repr

BOUND = 300
# The slowest that the presets use, beside the defaults of all.
MORE = (
    ColorJitter(hue=0.1),
    Blur(2.0, 2.0),
    Shear(0.2, 0.2, fill=128),
    AutoAugment("svhn"),
    RandAugment(2, 15, fill=128),
)


def rate(change: Callable[[int], None], rows: int, seconds: float) -> float:
    """Pictures a second of `change`, which takes the number of the epoch and does a batch."""
    change(0)
    started, epoch = time.process_time(), 0
    while epoch == 0 or time.process_time() - started < seconds:
        epoch += 1
        change(epoch)
    return rows * epoch / (time.process_time() - started)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", default="")
    job = parser.parse_args()
    torch.set_num_threads(1)
    values = np.random.default_rng(0).integers(0, 256, (job.rows, 3, job.size, job.size), dtype=np.uint8)
    batch = ImageBatch(torch.from_numpy(values))
    file = io.BytesIO()
    Image.fromarray(values[0].transpose(1, 2, 0)).save(file, "JPEG")

    def decode(epoch: int) -> None:
        Image.open(io.BytesIO(file.getvalue())).convert("RGB").resize((job.size, job.size))

    print(f"batches of {job.rows} of {job.size} x {job.size}, one core\n")
    print("| operation | pictures/s | bound |\n|---|---|---|")
    print(f"| decoded, for comparison | {rate(decode, 1, job.seconds / 4):.0f} | |")
    for operation in (*(kind() for kind in typing.get_args(ImageOperation)), *MORE):
        operation = dataclasses.replace(operation, p=1.0)
        if job.only not in type(operation).__name__:
            continue

        def change(epoch: int, operation: ImageOperation = operation) -> None:
            operation(batch, generators(0, range(job.rows), epoch))

        found = rate(change, job.rows, job.seconds)
        print(f"| `{short_repr(operation)}` | {found:.0f} | {'ok' if found >= BOUND else 'TOO SLOW'} |", flush=True)


if __name__ == "__main__":
    main()
