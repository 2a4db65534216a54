"""Load a saved pipeline with plain skops and scikit-learn and write what it predicts: a script, run in a fresh process.

python plain_classical.py JOB.json     writes JOB.npz, the scores (N, C)
python plain_classical.py              the same of the job that its input names, when it does
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from skops.io import load


def main(job_file: Path) -> None:
    """Run a job: `pipeline`, `trusted` types, `table` (a parquet file), `outputs`."""
    job = json.loads(job_file.read_text())
    pipeline, table = load(job["pipeline"], trusted=job["trusted"]), pd.read_parquet(job["table"])
    predict = pipeline.predict if job["outputs"] == "numbers" else pipeline.predict_proba
    classes = [] if job["outputs"] != "classes" else [str(name) for name in pipeline.classes_]
    np.savez(job_file.with_suffix(".npz"), scores=predict(table), classes=np.array(classes))


if __name__ == "__main__":
    if name := sys.argv[1] if len(sys.argv) > 1 else sys.stdin.readline().rstrip("\n"):
        main(Path(name))
