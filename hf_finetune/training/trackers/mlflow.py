"""MLflow: a database with its artifacts in DIR/logs/mlflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from hf_finetune.training.trackers.base import CLASS_COLUMNS, PROJECT, Results, Session, Tracker
from hf_finetune.utils.files import make_folder
from hf_finetune.utils.messages import silenced

TAG = "hf_finetune.id"
# Parameters of a request, and characters of a value.
MOST_PARAMETERS, MOST_CHARACTERS = 100, 500


class MLflow(Tracker):
    """MLFLOW_TRACKING_URI names another store, such as a server; MLFLOW_EXPERIMENT_NAME another experiment.

    The client is used without mlflow's active run, so that one of the user's own goes on.
    """

    def __init__(self, session: Session) -> None:
        # It sends statistics of its use otherwise, and reads this when it is imported.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        with silenced():
            from mlflow import MlflowClient

            folder = session.folder.absolute() / "mlflow"
            uri = os.environ.get("MLFLOW_TRACKING_URI")
            if uri is None:
                make_folder(folder)
            # Its store of plain files takes no new runs any more.
            self.client = MlflowClient(uri or f"sqlite:///{folder / 'mlflow.db'}")
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = self.client.get_experiment_by_name(name)
            artifacts = None if uri else (folder / "artifacts").as_uri()
            experiment_id = experiment.experiment_id if experiment else self.client.create_experiment(name, artifacts)
        earlier = self.client.search_runs([experiment_id], f"tags.`{TAG}` = '{session.id}'")
        if earlier:
            self.run_id = earlier[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
        else:
            run = self.client.create_run(experiment_id, run_name=session.name, tags={TAG: session.id})
            self.run_id = run.info.run_id
            self._log_parameters(session.config)

    def _log_parameters(self, config: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        parameters = [Param(name, str(value)[:MOST_CHARACTERS]) for name, value in config.items()]
        for start in range(0, len(parameters), MOST_PARAMETERS):
            self.client.log_batch(self.run_id, params=parameters[start : start + MOST_PARAMETERS])

    def log(self, stage: str, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.run_id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def log_results(self, results: Results) -> None:
        self.log("", results.metrics, results.step)
        columns = zip(*results.classes, strict=True)
        table = {name: list(column) for name, column in zip(CLASS_COLUMNS, columns, strict=False)}
        self.client.log_table(self.run_id, table, "per_class.json")
        for path in results.plots.values():
            self.client.log_artifact(self.run_id, str(path), "plots")

    def close(self, *, succeeded: bool) -> None:
        self.client.set_terminated(self.run_id, "FINISHED" if succeeded else "FAILED")
