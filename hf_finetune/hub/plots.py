"""The plots of a run: their names, on the card, in the run's folder and in its repository.

Like the card they are drawn from other files of the run, and can be drawn again at any time. So the manifest of the run
does not list them.
"""

from hf_finetune.utils.plots import FORMATS

FOLDER = "plots"
TITLES = {
    "learning_curves": "Learning curves",
    "confusion_matrix": "Confusion matrix",
    "reliability": "Reliability diagram",
    "learning_rate": "Learning rate",
    "pretraining_curves": "Learning curves of the continued pretraining",
    "ladder": "Quality against time, rung by rung",
    "compression": "What compression cost and gave",
}
"""Titles of the plots by name."""
FILES = tuple(f"{FOLDER}/{name}.{format}" for name in TITLES for format in FORMATS)
"""Paths in the run's folder and in its repository."""
