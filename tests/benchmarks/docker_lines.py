"""The lines of a Dockerfile that `hf-finetune export --docker` wrote, in a fresh virtual environment.

    python tests/benchmarks/docker_lines.py runs/reviews/onnx [--package .]

RUN installs this checkout in place of the release; COPY and EXPOSE become a folder and a free port. Then the server that
CMD starts has to answer. It takes minutes: everything is installed.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path


def request(port: int, path: str, body: object = None) -> dict:
    """Return the answer of the server."""
    content = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", content, timeout=60) as answer:
        return json.load(answer)


def main() -> None:
    """Install, start, ask, and print the answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--package", type=Path, default=Path(), help="checkout")
    options = parser.parse_args()
    lines = (options.export / "Dockerfile").read_text()
    (install,) = re.findall(r"^RUN (.*)$", lines, re.MULTILINE)
    start = json.loads(re.findall(r"^CMD (.*)$", lines, re.MULTILINE)[0])
    ignored = (options.export / ".dockerignore").read_text().split()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), Path(name) / "model"
        shutil.copytree(options.export, model, ignore=lambda _, names: {*ignored} & {*names})
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        # As in the image: nothing of this environment.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
        environment = kept | {"PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}", "HOME": name}
        environment["HF_HUB_OFFLINE"] = "1"
        install = re.sub(r"hf_finetune(\[.*?\])==[^'\s]+", rf"{options.package.resolve()}\1", install)
        print(install, flush=True)
        subprocess.run(install, shell=True, check=True, env=environment, stdout=subprocess.DEVNULL)
        replaced = {"/model": str(model), "0.0.0.0": "127.0.0.1", "8000": str(port)}
        started = time.perf_counter()
        server = subprocess.Popen([replaced.get(word, word) for word in start], env=environment, cwd=folder)
        try:
            while True:
                with suppress(OSError):
                    health = request(port, "/health")
                    break
                assert server.poll() is None, "the server ended"
                time.sleep(0.2)
            print(f"started in {time.perf_counter() - started:.1f} s: {health}")
            print(request(port, "/predict", {"inputs": "works as it should"}))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
