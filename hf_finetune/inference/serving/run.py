"""Run the server: one process, or several workers behind one port."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from dataclasses import asdict
from typing import TYPE_CHECKING

from hf_finetune.errors import InputError
from hf_finetune.inference.serving.config import ServeLimits
from hf_finetune.tasks.trained_pipeline import load_finished
from hf_finetune.utils.messages import install_command

if TYPE_CHECKING:
    from fastapi import FastAPI

SETTINGS = "HF_FINETUNE_SERVE"
"""Environment variable by which workers, which are processes of their own, get what they serve."""
STOP_S = 30
"""Seconds that requests have to end after a signal."""
HEADERS = 64 * 1024
logger = logging.getLogger("hf_finetune")


def serve(model: str, limits: ServeLimits, *, host: str, port: int, workers: int) -> None:
    """Serve a classifier until a signal stops it: requests that were taken are answered first.

    Raises:
        InputError: the extra `serve` is not installed, or there is no such model. No port is taken then.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise InputError(f"serve: it needs the package {error.name}; {install_command('serve')}") from None
    os.environ[SETTINGS] = json.dumps({"model": model, "limits": asdict(limits)})
    application: FastAPI | str = "hf_finetune.inference.serving.run:app"
    if workers == 1:
        application = app()
    else:
        load_finished(model)  # a wrong model is refused here; a worker that fails on it would be started for ever
    with tempfile.TemporaryDirectory(prefix="hf_finetune_metrics_") as folder:
        if workers > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        logger.info("serving %s on http://%s:%d with %d worker(s); ctrl-C stops", model, host, port, workers)
        uvicorn.run(
            application,
            factory=workers > 1,
            host=host,
            port=port,
            workers=workers,
            log_level="warning",
            timeout_graceful_shutdown=STOP_S,
            h11_max_incomplete_event_size=HEADERS,
        )


def app() -> FastAPI:
    """Return the application of this process, see `SETTINGS`."""
    from hf_finetune.inference.serving.app import build_app

    settings = json.loads(os.environ[SETTINGS])
    return build_app(load_finished(settings["model"]), ServeLimits(**settings["limits"]))
