"""Pictures that look wrong: of one colour, or far too small; and what is known of each for other findings.

Legend: N rows, F features.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from hf_finetune.data.image_decoding import decode
from hf_finetune.doctor.findings import Finding, Material, Suspect, of_rows

# A picture is of one colour whose channels stay within so many levels of 255.
ONE_COLOUR = 3
# It is tiny with a shorter side below SMALL pixels, or below this share of what is usual.
SMALL, TINY_SHARE = 8, 0.25
# Side of the shrunken pictures that are compared; pictures that are decoded at a time.
SIDE, AT_A_TIME = 12, 64


@dataclass(frozen=True)
class Looks:
    """What a pass over all pictures found of each."""

    sizes_N2: np.ndarray
    """Width and height in pixels."""
    plain_N: np.ndarray
    """Whether it is of one colour."""
    shrunken_NF: np.ndarray
    """Its pixels, shrunken; uint8."""


def look(material: Material) -> Looks:
    """Decode every picture once, a few at a time, with a progress bar."""
    rows = len(material)
    sizes, plain = np.empty((rows, 2), np.int64), np.empty(rows, bool)
    shrunken = np.empty((rows, SIDE * SIDE * 3), np.uint8)
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=rows, desc="pictures", unit="row", dynamic_ncols=True, disable=None) as bar,
    ):
        for start in range(0, rows, AT_A_TIME):
            part = slice(start, start + AT_A_TIME)
            seen = list(pool.map(_one, material.images(start, min(start + AT_A_TIME, rows))))
            sizes[part], plain[part], shrunken[part] = zip(*seen, strict=True)
            bar.update(len(seen))
    return Looks(sizes, plain, shrunken)


def _one(image: dict[str, Any]) -> tuple[tuple[int, int], bool, np.ndarray]:
    from PIL import Image

    picture = decode(image)
    plain = all(most - least <= ONE_COLOUR for least, most in picture.getextrema())
    return picture.size, plain, np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()


def pictures(material: Material, looks: Looks) -> tuple[list[Finding], dict[str, Any]]:
    """Findings on pictures, and the statistics of their sizes."""
    rows, shorter_N = len(material), looks.sizes_N2.min(axis=1)
    usual = float(np.median(shorter_N))
    tiny = np.flatnonzero(shorter_N < max(SMALL, TINY_SHARE * usual))
    findings = [
        *of_rows(
            "one_colour",
            "look",
            [Suspect(int(i), "one colour all over") for i in np.flatnonzero(looks.plain_N)],
            rows,
            "pictures are of one colour",
            "remove or replace them: there is nothing to be seen",
        ),
        *of_rows(
            "tiny_pictures",
            "look",
            [Suspect(int(i), "{} x {} pixels".format(*looks.sizes_N2[i])) for i in tiny],
            rows,
            f"pictures are tiny; half of all have {usual:g} pixels or more on the shorter side",
            "see whether they are thumbnails of others, or placeholders",
        ),
    ]
    quantiles = np.quantile(shorter_N, (0, 0.5, 1))
    return findings, {"shorter_side": dict(zip(("least", "median", "most"), map(float, quantiles), strict=True))}


def marks(looks: Looks) -> list[list[str]]:
    """What each picture shows before anything is seen: its size."""
    return [[f"{width} x {height} pixels"] for width, height in looks.sizes_N2]
