"""`hf-finetune serve`: a finished model behind HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import tyro

from hf_finetune.cli.classify import Runtime, model_of_runtime
from hf_finetune.cli.parsing import parse
from hf_finetune.cli.run import importing
from hf_finetune.inference.serving.config import SERVE_LIMITS, ServeLimits
from hf_finetune.utils.config import Count, between, configclass


@configclass
class ServeJob:
    """Serve a finished model over HTTP: POST /predict, /health, /metrics, and a page to try it."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder of a run, of a model or of an export, or a Hub id."""
    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0: all of this machine; there is no authentication."""
    port: Annotated[int, between(0, 65535)] = 8000
    """Port to listen on."""
    workers: Count = 1
    """Processes, each with the model. One that dies is started again."""
    runtime: Runtime = "torch"
    """What computes. onnx, openvino: the folder of that name in the run, which `hf-finetune export` writes."""
    limits: Annotated[ServeLimits, tyro.conf.arg(name="")] = SERVE_LIMITS


def serve(arguments: Sequence[str]) -> None:
    job = parse(ServeJob, arguments, "hf-finetune serve")
    with importing():
        from hf_finetune.inference.serving.run import serve as run_server

    model = model_of_runtime(job.model, job.runtime)
    run_server(model, job.limits, host=job.host, port=job.port, workers=job.workers)
