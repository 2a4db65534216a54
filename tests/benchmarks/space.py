"""The Space of a run in a process of its own, which loads the model from a Hub on this machine.

    python tests/benchmarks/space.py runs/reviews "works as it should" "broke after a day" [--python VENV/bin/python]
    python tests/benchmarks/space.py runs/pairs "How old are you?" "What is your age?"      # two texts are a pair
    python tests/benchmarks/space.py runs/photos a.jpg b.png

The run is pushed there with --space; app.py is started by a Python that has gradio, and called through gradio_client, which
uploads images as a page does. Its answers and scores have to be those of `Classifier`, and an empty input an error that
says so. Of images, variants are sent, too: turned by EXIF, transparent, 16-bit gray, CMYK.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_finetune import Classifier

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.hub_server import hub_server

REPO = "tester/space"
PUSH = "from hf_finetune.cli.main import main_command; main_command()"
ASK = """
import json, sys
from gradio_client import Client, handle_file
client, is_image = Client(sys.argv[1], verbose=False), sys.argv[3] == "image"
for row in json.loads(sys.argv[2]):
    values = [handle_file(value) if is_image and value else value for value in row]
    try:
        answer = client.predict(*values, api_name="/classify")
    except Exception as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))
"""


def main() -> None:
    """Push, start, ask, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--python", default=sys.executable, help="one that has gradio")
    options = parser.parse_args()
    classifier = Classifier.load(options.run)
    with tempfile.TemporaryDirectory() as name, space(options.run, options.python, Path(name)) as (url, environment):
        (kind,) = re.findall(
            r"^MODEL, INPUTS, HAS_SCORES = '.*', '(\w+)', ", Path(name, "app.py").read_text(), re.MULTILINE
        )
        inputs = options.inputs + (variants(Path(options.inputs[0]), Path(name)) if kind == "image" else [])
        width = 2 if kind == "pair" else 1
        rows = [tuple(inputs[i : i + width]) for i in range(0, len(inputs), width)]
        empty = [None if kind == "image" else ""] * width
        ask = [options.python, "-c", ASK, url, json.dumps([*rows, empty]), kind]
        lines = subprocess.run(ask, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout
        *answers, refused = map(json.loads, lines.splitlines())
        for row, answer in zip(rows, answers, strict=True):
            print(row, json.dumps(answer), flush=True)
            compare(classifier, row if kind == "pair" else row[0], answer)
    print("empty:", refused)
    assert "empty" in refused["error"], "an empty input has to be refused by a message"
    print(f"the Space answers as Classifier does, {len(rows)} rows")


@contextmanager
def space(run: Path, python: str, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Push a run to a Hub on this machine, and start its Space in a folder.

    Yields:
        Its URL, and the variables of its environment.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with hub_server() as server:
        environment = os.environ | server.environment(folder / "home")
        environment |= {"GRADIO_ANALYTICS_ENABLED": "0", "GRADIO_SERVER_PORT": str(port)}
        subprocess.run([sys.executable, "-c", PUSH, "push", run, REPO, "--space"], check=True, env=environment)
        for path in ("README.md", "app.py", "requirements.txt"):
            (folder / path).write_bytes(server.repo(REPO, "space").at("main").files[path].content)
        started = time.perf_counter()
        app = subprocess.Popen([python, "app.py"], env=environment, cwd=folder)
        try:
            while True:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert app.poll() is None, "the app ended"
                time.sleep(0.5)
            print(f"started in {time.perf_counter() - started:.1f} s")
            yield f"http://127.0.0.1:{port}", environment
        finally:
            app.terminate()
            app.wait()


def variants(path: Path, folder: Path) -> list[str]:
    """Write an image in the forms that programs like to read differently; return their paths."""
    image = Image.open(path).convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6
    alpha = Image.linear_gradient("L").resize(image.size)
    gray = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256)
    paths = {name: str(folder / name) for name in ("turned.jpg", "transparent.png", "gray16.png", "cmyk.jpg")}
    image.save(paths["turned.jpg"], exif=turned)
    Image.merge("RGBA", (*image.split(), alpha)).save(paths["transparent.png"])
    gray.save(paths["gray16.png"])
    image.convert("CMYK").save(paths["cmyk.jpg"])
    return [*paths.values()]


def compare(classifier: Classifier, row: Any, answer: Any) -> None:
    """Compare an answer of the Space with that of the classifier."""
    # Tasks with scores have a second output.
    shown, scores = answer if isinstance(answer, list) else (answer, None)
    predicted = classifier.predict([row])[0]
    predicted = predicted if isinstance(predicted, list) else predicted.tolist()
    assert json.loads(json.dumps(predicted)) == shown["prediction"], (predicted, shown)
    if scores is not None:
        found = {each["label"]: each["confidence"] for each in scores["confidences"]}
        expected = classifier.predict_proba([row])[0]
        assert np.allclose([found[label] for label in classifier.labels], expected, atol=1e-5), (found, expected)


if __name__ == "__main__":
    main()
