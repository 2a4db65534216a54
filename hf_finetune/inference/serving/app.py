"""The HTTP interface of a finished classifier."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from datasets import Dataset, concatenate_datasets
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from hf_finetune.data.config import DEFAULT_LIMITS
from hf_finetune.data.image_decoding import reason_of
from hf_finetune.errors import InputError
from hf_finetune.inference.parts import read_inputs
from hf_finetune.inference.prediction import predictions_table
from hf_finetune.inference.scoring import scorer_of
from hf_finetune.inference.serving.batching import Batcher, QueueFull
from hf_finetune.inference.serving.config import SERVE_LIMITS, ServeLimits
from hf_finetune.tasks.trained_pipeline import Trained

logger = logging.getLogger("hf_finetune")

AT_ONCE = 16_000
"""Bytes of a body that is read at once, in about a millisecond; others are read in a thread, as images are."""
UNREAD = 16
"""A body of at most so many times the limit is read to its end and dropped: most clients send all of it before they
read an answer, and would find the connection reset in place of it."""
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper bounds of the histogram of batches."""
RAISE = re.compile(r",? or raise --data\.limits\.[a-z-]+")
"""A remedy in messages on inputs: a flag of `predict`, which neither a client has nor the server."""
INPUTS = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "inputs": {
                            "description": "A text, or a list of texts, pairs [first, second], lists of words, "
                            "or images in base64.",
                            "anyOf": [{"type": "string"}, {"type": "array", "items": {}}],
                        }
                    },
                },
                "example": {"inputs": ["works as it should", "broke after a day"]},
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


EXPECTED = {
    "text": 'expected JSON, {"inputs": ["a text", ...]}',
    "image": 'expected an image with its content-type, image/..., or JSON, {"inputs": ["an image in base64", ...]}',
}


class Refused(Exception):
    """A request that is not answered with predictions."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status, self.headers = status, headers


class Measured:
    """What /metrics shows, in the format of Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        options: dict[str, Any] = {"registry": self.registry, "namespace": "hf_finetune"}
        self.requests = Counter("requests", "Requests of predictions, by status.", ["status"], **options)
        self.rows = Counter("rows", "Rows that were predicted.", **options)
        self.seconds = Histogram("request_seconds", "From the first byte of a request to its answer.", **options)
        self.batch = Histogram("batch_rows", "Rows that were computed together.", buckets=SIZES, **options)
        self.queue = Gauge("queue_rows", "Rows that wait.", multiprocess_mode="livesum", **options)

    def text(self) -> bytes:
        """Return the metrics; with several workers those of all."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)


def build_app(classifier: Trained, limits: ServeLimits = SERVE_LIMITS) -> FastAPI:
    """Return the application that serves a classifier.

    `POST /predict`, `GET /health`, `GET /metrics`, a page to try it at `/`, and its description at `/openapi.json`.
    """
    measured, service = Measured(), _Service(classifier)

    def seen(rows: int) -> None:
        measured.batch.observe(rows)
        measured.rows.inc(rows)

    batcher = Batcher(service.predict, limits, seen)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.stop()

    app = FastAPI(title=service.name, version=version("hf_finetune"), lifespan=lifespan, docs_url=None, redoc_url=None)

    app.get("/health")(service.describe)
    app.get("/", response_class=HTMLResponse)(page)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return the metrics of the server for Prometheus."""
        measured.queue.set(batcher.rows)
        return Response(measured.text(), media_type=CONTENT_TYPE_LATEST)

    @app.post("/predict", openapi_extra=INPUTS)
    async def predict(request: Request) -> JSONResponse:
        """Label a text or an image, or a list of them."""
        return await _respond(_answer(request, service, batcher, limits), measured)

    return app


async def page() -> str:
    """Return a page to try the classifier."""
    return files(__package__).joinpath("page.html").read_text(encoding="utf-8")


async def _respond(answer: Awaitable[list[dict[str, Any]]], measured: Measured) -> JSONResponse:
    """Return predictions, or why there are none, and count the request."""
    started, status, headers = time.perf_counter(), 200, dict[str, str]()
    try:
        content: dict[str, Any] = {"predictions": await answer}
    except Refused as refused:
        status, content, headers = refused.status, {"error": str(refused)}, refused.headers
    except Exception as error:  # of one batch
        logger.exception("a request failed")
        status, content = 500, {"error": f"{type(error).__name__}: the rows could not be computed"}
    measured.requests.labels(status).inc()
    measured.seconds.observe(time.perf_counter() - started)
    return JSONResponse(content, status, headers)


async def _answer(request: Request, service: _Service, batcher: Batcher, limits: ServeLimits) -> list[dict[str, Any]]:
    """Return the predictions of a request.

    Raises:
        Refused: its body is too large, too slow or no such inputs, or too many rows wait.
    """
    body = await _body(request, limits)
    content = request.headers.get("content-type", "")
    if len(body) <= AT_ONCE and service.classifier.kind == "text":
        rows = service.read(content, body, limits.max_rows)
    else:  # other requests are answered meanwhile
        rows = await asyncio.to_thread(service.read, content, body, limits.max_rows)
    try:
        return await batcher.predict(rows)
    except QueueFull:
        raise Refused(429, f"{limits.max_queue} rows wait already; try again later", **{"retry-after": "1"}) from None


async def _body(request: Request, limits: ServeLimits) -> bytes:
    """Return the body of a request.

    Raises:
        Refused: it has too many bytes, or did not arrive in time.
    """
    most, parts, size = limits.max_body, list[bytes](), 0
    declared = request.headers.get("content-length", "0")
    too_large = Refused(413, f"expected at most {most:,} bytes", connection="close")
    if not declared.isdigit() or int(declared) > UNREAD * most:
        raise too_large
    try:
        async with asyncio.timeout(limits.body_timeout):
            async for part in request.stream():
                size += len(part)
                if size > UNREAD * most:
                    raise too_large
                if size <= most:
                    parts.append(part)
                else:
                    parts.clear()
    except TimeoutError:
        # Clients send a request again after a 408, which would be too large again.
        if max(size, int(declared)) > most:
            raise too_large from None
        raise Refused(408, f"the body did not arrive within {limits.body_timeout:g} s", connection="close") from None
    if size > most:
        raise too_large
    return b"".join(parts)


class _Service:
    """The classifier behind the interface."""

    def __init__(self, classifier: Trained) -> None:
        self.classifier = classifier
        self.name = classifier.name.rstrip("/").rsplit("/", 1)[-1]
        self.scorer = scorer_of(classifier, "float32")

    async def describe(self) -> dict[str, Any]:
        """Say that the server answers, and what its classifier knows."""
        classifier = self.classifier
        known = {"model": self.name, "task": classifier.task.name, "kind": classifier.kind, "pairs": classifier.pairs}
        return {"status": "ok", **known, "labels": list(classifier.labels)}

    def read(self, content_type: str, body: bytes, most: int) -> Dataset:
        """Return the canonical rows of a body.

        Raises:
            Refused: it holds no such rows.
        """
        if content_type.startswith("image/") and self.classifier.kind == "image":
            inputs: list[Any] = [body]
        else:
            try:
                inputs = json.loads(body)["inputs"]
            except (ValueError, LookupError, TypeError, RecursionError):
                raise Refused(400, EXPECTED[self.classifier.kind]) from None
            inputs = [inputs] if isinstance(inputs, str) else inputs
        if not isinstance(inputs, list) or not inputs:
            raise Refused(422, "inputs: expected a text, or a list of at least one")
        if len(inputs) > most:
            raise Refused(413, f"inputs: expected at most {most} rows, got {len(inputs)}")
        try:
            parts = [*read_inputs(self.classifier, list(map(self._input, inputs)), DEFAULT_LIMITS)]
        except InputError as error:
            raise Refused(422, RAISE.sub("", str(error))) from None
        return concatenate_datasets(parts) if len(parts) > 1 else parts[0]

    def _input(self, given: Any) -> Any:
        if self.classifier.kind == "image":
            return _image(given)
        if self.classifier.pairs and isinstance(given, list):
            return tuple(given)
        return given

    def predict(self, parts: list[Dataset]) -> list[list[dict[str, Any]]]:
        """Return the predictions of the rows of several requests."""
        rows = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
        found = predictions_table(self.classifier.task, rows, self.scorer.score(rows)[0]).to_pylist()
        for each in found:
            del each["row"]
        answers, first = list[list[dict[str, Any]]](), 0
        for part in parts:
            answers.append(found[first : first + len(part)])
            first += len(part)
        return answers


def _image(given: Any) -> Any:
    """Return an image of bytes, or of text in base64.

    Raises:
        Refused: it is none.
    """
    from PIL import Image

    try:
        content = given if isinstance(given, bytes) else base64.b64decode(given, validate=True)
        return Image.open(io.BytesIO(content))
    except (TypeError, ValueError, OSError, Image.DecompressionBombError) as error:
        reason = reason_of(error)
        raise Refused(422, f"inputs: expected an image (JPEG, PNG, ...), in JSON in base64: {reason}") from None
