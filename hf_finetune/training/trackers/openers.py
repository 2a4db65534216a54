"""The trackers by name; their packages are imported when one is opened."""

from collections.abc import Callable, Mapping

from hf_finetune.training.trackers.base import Session, Tracker
from hf_finetune.training.trackers.mlflow import MLflow
from hf_finetune.training.trackers.tensorboard import TensorBoard
from hf_finetune.training.trackers.trackio import Trackio
from hf_finetune.training.trackers.wandb import WeightsAndBiases

OPENERS: Mapping[str, Callable[[Session], Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}
