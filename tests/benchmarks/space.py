"""The Space of a run in a process of its own, which loads the model from a Hub on this machine.

    python tests/benchmarks/space.py runs/reviews "works as it should" [--python VENV/bin/python]

The run is pushed there with --space; app.py is started by a Python that has gradio, and asked through gradio_client. Its
answer has to be that of `Classifier`. A pair is two texts, an image a path.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.hub_server import hub_server

REPO = "tester/space"
ASK = """
import json, sys
from gradio_client import Client, handle_file
rows = json.loads(sys.argv[2])
client = Client(sys.argv[1], verbose=False)
print(json.dumps(client.predict(*[handle_file(r) if r.endswith((".png", ".jpg")) else r for r in rows], api_name="/classify")))
"""


def main() -> None:
    """Push, start, ask, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--python", default=sys.executable, help="one that has gradio")
    options = parser.parse_args()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with tempfile.TemporaryDirectory() as name, hub_server() as server:
        environment = os.environ | server.environment(Path(name) / "home")
        environment |= {"GRADIO_ANALYTICS_ENABLED": "0", "GRADIO_SERVER_PORT": str(port)}
        main_command = "from hf_finetune.cli.main import main_command; main_command()"
        push = [sys.executable, "-c", main_command, "push", options.run, REPO, "--space"]
        subprocess.run(push, check=True, env=environment)
        api = HfApi(endpoint=server.endpoint, token=server.token)
        for path in ("README.md", "app.py", "requirements.txt"):
            (Path(name) / path).write_bytes(server.repo(REPO, "space").at("main").files[path].content)
        assert api.repo_info(REPO, repo_type="space").sha
        started = time.perf_counter()
        app = subprocess.Popen([options.python, "app.py"], env=environment, cwd=name)
        try:
            while True:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert app.poll() is None, "the app ended"
                time.sleep(0.5)
            print(f"started in {time.perf_counter() - started:.1f} s")
            ask = [options.python, "-c", ASK, f"http://127.0.0.1:{port}", json.dumps(options.inputs)]
            answer = json.loads(subprocess.run(ask, check=True, env=environment, stdout=subprocess.PIPE).stdout)
        finally:
            app.terminate()
            app.wait()
    print(json.dumps(answer))
    from hf_finetune import Classifier

    classifier = Classifier.load(options.run)
    row = options.inputs[0] if len(options.inputs) == 1 else tuple(options.inputs)
    predicted = classifier.predict([row])[0]
    predicted = predicted if isinstance(predicted, list) else predicted.tolist()
    # Tasks with scores have a second output.
    shown = answer[0] if isinstance(answer, list | tuple) else answer
    found = shown["prediction"]
    assert json.loads(json.dumps(predicted)) == found, (predicted, found)
    print("the Space answers as Classifier does")


if __name__ == "__main__":
    main()
