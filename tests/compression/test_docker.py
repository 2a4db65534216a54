"""The Dockerfile of an export. `tests/benchmarks/docker_lines.py` runs its lines."""

import json
import re
from pathlib import Path

from hf_finetune.cli.parsing import parse
from hf_finetune.cli.serve import ServeJob
from hf_finetune.compression.docker import write_dockerfile
from hf_finetune.compression.export import Exported


def test_its_start_line_is_a_command_of_ours(tmp_path: Path) -> None:
    write_dockerfile(tmp_path, ["onnx"])
    text = (tmp_path / "Dockerfile").read_text()
    program, name, *arguments = json.loads(re.search(r"^CMD (.*)$", text, re.MULTILINE)[1])  # type: ignore[index]
    job = parse(ServeJob, arguments, "hf-finetune serve")
    assert (program, name, job.model, job.port) == ("hf-finetune", "serve", "/model", 8000)
    assert "COPY . /model" in text and f"EXPOSE {job.port}" in text and job.host == "0.0.0.0"
    assert re.search(r"^RUN pip install --no-cache-dir 'hf_finetune\[onnx,serve\]==[\w.]+'$", text, re.MULTILINE)
    assert "Dockerfile" in (tmp_path / ".dockerignore").read_text().split()


def test_an_image_that_reads_images_installs_what_decodes_them(tmp_path: Path) -> None:
    document = {"format": "openvino", "weights": "float32", "hub_task": "image-classification"}
    Exported(tmp_path, document).write_dockerfile()
    assert "'hf_finetune[openvino,vision,serve]==" in (tmp_path / "Dockerfile").read_text()
