"""Dockerfile of an export: an image that serves it over HTTP."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from hf_finetune.utils.environment import requirement
from hf_finetune.utils.files import write_text

FILE = "Dockerfile"
# A file of the export is read by anyone, and nothing is written but below HOME.
CONTENT = """\
# docker build -t classifier . && docker run -p 8000:8000 classifier
# Then: curl -d '{{"inputs": "..."}}' http://127.0.0.1:8000/predict, or open http://127.0.0.1:8000
FROM python:3.11-slim
RUN pip install --no-cache-dir {requirement}
COPY . /model
USER nobody
ENV HOME=/tmp HF_HUB_OFFLINE=1
EXPOSE 8000
CMD {start}
"""
START = ("hf-finetune", "serve", "/model", "--host", "0.0.0.0", "--port", "8000")
IGNORED = "Dockerfile\n.dockerignore\nexample.py\n"


def write_dockerfile(folder: Path, extras: Sequence[str]) -> None:
    """Write Dockerfile and .dockerignore beside the files of an export.

    Args:
        extras: of this version of the package, which read its inputs and compute it.
    """
    start = "[" + ", ".join(f'"{word}"' for word in START) + "]"
    write_text(folder / FILE, CONTENT.format(requirement=shlex.quote(requirement(*extras, "serve")), start=start))
    write_text(folder / ".dockerignore", IGNORED)
