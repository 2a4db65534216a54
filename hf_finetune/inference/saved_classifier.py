"""The files of a finished classifier: load, save, push and pickle."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any, Self

from hf_finetune.config.recipe import Hub
from hf_finetune.data import provenance
from hf_finetune.errors import InputError
from hf_finetune.inference.result import Result
from hf_finetune.inference.session import python_session
from hf_finetune.models.config import CHECKPOINT_LIMITS, CheckpointLimits
from hf_finetune.models.exported_network import ExportedNetwork
from hf_finetune.pipeline.push import push_run, push_with_space
from hf_finetune.pipeline.run_folder import replacing
from hf_finetune.tasks.trained_model import TrainedModel, run_folder
from hf_finetune.tasks.trained_pipeline import Trained, load_finished
from hf_finetune.utils.artifacts import HEAD_FILE, artifacts_in
from hf_finetune.utils.messages import counted

DOCUMENTS = ("result.json", "recipe.json", "README.md", "predictions.parquet", provenance.FILE)
PARTS = ("model", "encoder", "adapter", "classical")


class SavedClassifier:
    """A finished classifier as files, see `Classifier`."""

    def __init__(self, trained: Trained) -> None:
        self._trained = trained
        self.labels = trained.labels
        self.folder = run_folder(trained.files)
        self.result = Result.read(self.folder) if (self.folder / "result.json").is_file() else None

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        limits: CheckpointLimits = CHECKPOINT_LIMITS,
    ) -> Self:
        """Load the folder of a run, of its model, or a repository on the Hub.

        Args:
            revision: branch, tag or commit on the Hub.
            trust_remote_code: run Python code that comes with the model.
            limits: limits on what the files say, `CheckpointLimits(max_image_side=2048)`. A run on this machine has
                those that it was trained with, too.

        Examples:
            >>> Classifier.load("runs/reviews").result.method
            'full'

        Raises:
            InputError: there is no such model, or it is no trained classifier.
            GateError: its files are not those that its run wrote.
        """
        with python_session():
            return cls(
                load_finished(os.fspath(model), revision=revision, trust_remote_code=trust_remote_code, limits=limits)
            )

    def __repr__(self) -> str:
        kind = "pairs of texts" if self._trained.pairs else f"{self._trained.kind}s"
        more = ", ..." if len(self.labels) > 5 else ""
        names = ", ".join(self.labels[:5]) + more
        return f"Classifier({_relative(self._trained.name)!r}, {kind}, {counted(len(self.labels), 'label')}: {names})"

    def save(self, folder: str | Path) -> None:
        """Copy the files of the classifier, its result and its card to a new folder.

        Examples:
            >>> clf.save("saved")
            >>> Classifier.load("saved").labels == clf.labels
            True

        Raises:
            InputError: the folder is not empty.
        """
        target = Path(folder).expanduser()
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{target}: the folder is not empty; name another one")
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            for name, path in self._files().items():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, partial / name)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        revision: str | None = None,
        create_pr: bool = False,
        space: bool = False,
    ) -> str:
        """Push the run to the Hub, pull it back, and compare the logits of both copies.

        Args:
            repo_id: `name/model`, created if needed.
            private: make a new repository private.
            revision: branch.
            create_pr: open a pull request.
            space: also publish a Space of this name, a page that runs the model by Gradio.

        Returns:
            The page of the model on the Hub; that of a Space has `spaces/` before the name.

        Examples:
            >>> clf.push_to_hub("me/reviews").endswith("me/reviews")
            True
            >>> Classifier.load("me/reviews").labels == clf.labels
            True

        Raises:
            InputError: the model is of no run, there is no token, or no right to write.
            PushError: the Hub kept failing.
            GateError: the pulled copy differs.
        """
        if self.result is None:
            raise InputError(f"{self.folder}: no result.json; only the model of a run is pushed, with what it measured")
        target = Hub(repo_id=repo_id, private=private, revision=revision, create_pr=create_pr)
        with python_session():
            if space:
                return push_with_space(self.folder, target)[0].url
            return push_run(self.folder, target).url

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the files, so that the copy loads on any machine."""
        files = {name: path.read_bytes() for name, path in self._files().items()}
        return {"name": self._trained.name, "files": files, "limits": self._trained.limits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        folder = Path(tempfile.mkdtemp(prefix="hf_finetune_"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        for name, content in state["files"].items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        with python_session():
            self.__init__(load_finished(str(folder), limits=state["limits"]))  # type: ignore[misc]

    def _files(self) -> dict[str, Path]:
        """Return the files of the classifier by their path in its folder; of an export its own, not the run's."""
        is_graph = isinstance(self._trained, TrainedModel) and isinstance(self._trained.model, ExportedNetwork)
        # The graph of a compressed run is its result.
        is_result = "onnx" in artifacts_in(self.folder)
        folder = self._trained.files["config.json"].parent if is_graph and not is_result else self.folder
        parts = [folder / part for part in (*PARTS, *(["onnx"] if is_result else [])) if (folder / part).is_dir()]
        files = [path for part in parts for path in part.rglob("*") if path.is_file()]
        files += [folder / name for name in (*DOCUMENTS, HEAD_FILE)]
        if not (folder / "model").is_dir():
            files += [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        return {path.relative_to(folder).as_posix(): path for path in files if path.is_file()}


def _relative(name: str) -> str:
    """Return the name of a model, or its folder relative to the working directory if it lies below."""
    path = Path(name)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else name
