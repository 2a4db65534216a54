"""An export in a browser, by transformers.js in headless Chromium: its labels are those of example.py.

    python tests/benchmarks/browser.py runs/reviews/onnx "works as it should" "broke after a day" [--package FOLDER]

FOLDER has node_modules/; without it, npm installs the package into a temporary folder. Nothing else is fetched.
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PACKAGE = "@huggingface/transformers@^3"
# The three lines in the middle are those of docs/export.md.
PAGE = """<script type="module">
const send = (content) => fetch("/result", {method: "POST", body: JSON.stringify(content)});
try {
  const { env, pipeline } = await import("/package/dist/transformers.min.js");
  env.allowLocalModels = true;
  env.allowRemoteModels = false;
  env.localModelPath = "/";
  env.backends.onnx.wasm.wasmPaths = "/package/dist/";
  const classify = await pipeline("text-classification", "model", { dtype: "fp32", subfolder: "" });
  const found = [];
  for (const text of %s) found.push((await classify(text))[0]);
  await send(found);
} catch (error) { await send({ error: String(error) }); }
</script>"""


class Site(SimpleHTTPRequestHandler):
    """A page, the package and the export; takes the result of the page."""

    def __init__(self, *arguments: object, page: str, places: dict[str, Path], result: "list", done: threading.Event):
        self.page, self.places, self.result, self.done = page, places, result, done
        super().__init__(*arguments)  # type: ignore[arg-type]

    def translate_path(self, path: str) -> str:
        name, _, rest = path.split("?")[0].lstrip("/").partition("/")
        return str(self.places[name] / rest) if name in self.places else "/nonexistent"

    def do_GET(self) -> None:
        if self.path != "/":
            return super().do_GET()
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(self.page.encode())

    def do_POST(self) -> None:
        self.result.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(204)
        self.end_headers()
        self.done.set()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def in_browser(package: Path, export: Path, texts: list[str], seconds: float = 120) -> list[dict]:
    """Return the first label and its score of each text.

    Raises:
        RuntimeError: the page failed, or no result came in time.
    """
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise RuntimeError("no Chromium")
    result: list = []
    done, places = threading.Event(), {"model": export, "package": package}
    site = partial(Site, page=PAGE % json.dumps(texts), places=places, result=result, done=done)
    with ThreadingHTTPServer(("127.0.0.1", 0), site) as server, tempfile.TemporaryDirectory() as profile:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
        address = f"http://127.0.0.1:{server.server_port}/"
        command = [chromium, *flags.split(), "--remote-debugging-port=0", f"--user-data-dir={profile}", address]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if not done.wait(seconds):
                raise RuntimeError(f"no result within {seconds:g} s")
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
    if "error" in result[0]:
        raise RuntimeError(result[0]["error"])
    return result[0]


def labels_of_example(export: Path, texts: list[str]) -> list[str]:
    """Return what example.py answers."""
    spec = importlib.util.spec_from_file_location("example", export / "example.py")
    assert spec is not None and spec.loader is not None, "it is a Python file"
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example.answers(texts)


def main() -> None:
    """Print the labels of both; the exit status is 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--package", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.package or Path(name)
        if options.package is None:
            subprocess.run(["npm", "install", "--ignore-scripts", "--prefix", name, PACKAGE], check=True)
        package = folder / "node_modules" / "@huggingface" / "transformers"
        found = in_browser(package, options.export.resolve(), options.texts)
    expected = labels_of_example(options.export, options.texts)
    for text, one, other in zip(options.texts, found, expected, strict=True):
        print(f"{text}: {one['label']} ({one['score']:.4f}) in the browser, {other} by example.py")
    sys.exit([each["label"] for each in found] != expected)


if __name__ == "__main__":
    main()
