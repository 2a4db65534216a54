"""Images that a table names, from a stopped run to the Hub, by the shell and in Python, in a process of its own."""

import json
from pathlib import Path

import pandas as pd
from helpers import forks
from helpers.hub_server import HubServer
from helpers.small_runs import image_folder
from helpers.tiny import tiny_image_checkpoint

CODE = """
import numpy as np, pandas as pd, pytest
from pathlib import Path
from PIL import Image
from helpers.small_runs import stop_after
from helpers import gate
from hf_finetune import Classifier, StoppedBySignal, train
from hf_finetune.cli.main import COMMANDS, main_command

gate.run_here()
data = ["tables/rows.csv", "--data.image-root", "images"]
settings = ["--model", "vit", "--epochs", "2", "--batch-size", "8", "--lr", "1e-2", "--mixed-precision", "no"]
settings += ["--evaluate.no-baselines", "--evaluate.no-plots", "--evaluate.resamples", "100"]
COMMANDS["doctor"].run(data)
COMMANDS["plan"].run([*data, *settings])
with pytest.MonkeyPatch.context() as patch:
    stop_after(patch, 3)
    with pytest.raises(StoppedBySignal):
        COMMANDS["train"].run([*data, *settings, "--output", "run"])
COMMANDS["train"].run([*data, *settings, "--output", "run", "--resume", "--push", "tester/photos"])
COMMANDS["evaluate"].run(["run", "images/metadata.csv"])
COMMANDS["predict"].run(["run", "images", "--output", "folder.csv"])
COMMANDS["predict"].run(["run", "tables/rows.xlsx", "--data.image-root", "images", "--output", "sheet.csv"])

frame = pd.read_csv("tables/rows.csv")
photos = [Image.open(Path("images") / name) for name in frame["photo"]]
fields = {"model": "vit", "epochs": 2, "batch_size": 8, "lr": 1e-2, "mixed_precision": "no"}
fields |= {"evaluate": {"baselines": False, "plots": False, "resamples": 100}}
named = train(frame, image_root="images", output="named", **fields)
shown = train((photos, list(frame["kind"])), output="shown", **fields)
pulled = Classifier.load("tester/photos")
expected = pulled.predict_proba(photos)
assert len(set(pulled.predict(photos))) == 2
for clf in (named, shown, Classifier.load("run")):
    assert np.array_equal(clf.predict_proba([np.asarray(photo) for photo in photos]), expected)
"""


def test_from_a_table_to_the_hub(tmp_path: Path, hub: HubServer, hub_environment: dict[str, str]) -> None:
    """The same classifier by a table of names that is stopped and resumed, a frame of names, and images in memory."""
    tiny_image_checkpoint(tmp_path / "vit")
    folder = image_folder(tmp_path / "images", 40)
    rows = [(path.relative_to(folder).as_posix(), path.parent.name) for path in sorted(folder.glob("*/*.png"))]
    frame = pd.DataFrame(rows, columns=["photo", "kind"])
    (tmp_path / "tables").mkdir()
    frame.to_csv(tmp_path / "tables" / "rows.csv", index=False)
    frame.to_excel(tmp_path / "tables" / "rows.xlsx", index=False)
    frame.set_axis(["file_name", "label"], axis=1).to_csv(folder / "metadata.csv", index=False)
    environment = hub_environment | {"HF_FINETUNE_CACHE": str(tmp_path / "cache")}
    answer = forks.run(CODE, environment=environment, cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
    sent = set(hub.repo("tester/photos").at("main").files)
    assert {"config.json", "preprocessor_config.json", "model.safetensors"} <= sent
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["data"]["columns"] == {"image": "photo", "label": "kind"}
    by_folder, by_sheet = (pd.read_csv(tmp_path / name) for name in ("folder.csv", "sheet.csv"))
    assert list(by_sheet["photo"]) == list(by_folder["file_name"]) == list(frame["photo"])
    assert by_sheet["predicted"].equals(by_folder["predicted"])
