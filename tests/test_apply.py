import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tiny import tiny_text_checkpoint

from hf_finetune import InputError
from hf_finetune.apply import Classifier, Source, check_output, evaluate, predict, quiet_libraries
from hf_finetune.data.inputs import TextInputs
from hf_finetune.models.load import load_classifier, load_tokenizer

LABELS = ("a/b", "two\nlines", 'naïve, "x"')


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    quiet_libraries()
    folder = str(tiny_text_checkpoint(tmp_path_factory.mktemp("bert")))
    model = load_classifier(folder, task="text-classification", labels=LABELS, seed=0).model.eval()
    return Classifier(model, TextInputs(load_tokenizer(folder, max_length=32, sample=[]), 32), LABELS)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("text,other\n" + "".join(f"a good film {i},{i}\n" for i in range(5)))
    return path


def test_every_format_says_the_same(classifier: Classifier, rows: Path) -> None:
    files = [rows.parent / "new" / name for name in ("p.csv", "p.jsonl", "p.parquet", "q.CSV")]
    for file in files:
        assert predict(classifier, Source(str(rows)), file) == 5
    table = pq.read_table(files[2])
    assert table.column_names == ["row", "predicted", *(f"p:{name}" for name in LABELS)]
    assert table["row"].to_pylist() == list(range(5)) and set(table["predicted"].to_pylist()) <= set(LABELS)
    assert [json.loads(line) for line in files[1].read_text().splitlines()] == table.to_pylist()
    with files[0].open(newline="") as file:
        assert [row["predicted"] for row in csv.DictReader(file)] == table["predicted"].to_pylist()
    assert files[3].read_bytes() == files[0].read_bytes()


def test_bad_rows_leave_nothing_behind(classifier: Classifier, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows.write_text("text\n" + "good\n" * 2000 + '" "\n')
    with pytest.raises(InputError, match="row 2001"):
        predict(classifier, Source(str(rows)), rows.parent / "new" / "deep" / "p.csv")
    assert list(rows.parent.iterdir()) == [rows]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("p.txt", "--output .*: expected a name ending in .csv, .parquet, .jsonl"),
        ("folder.csv", "--output .*: this is a folder, expected a file"),
        ("rows.csv", "--output .*: these are the rows to label; name another file"),
        ("rows.csv/p.csv", r"--output .*: nothing can be written to .*/rows.csv \(Not a directory\)"),
        ("/proc/new/p.csv", "--output .*: nothing can be written to /proc"),
    ],
)
def test_unusable_outputs(classifier: Classifier, rows: Path, output: str, message: str) -> None:
    (rows.parent / "folder.csv").mkdir()
    before = rows.read_bytes()
    with pytest.raises(InputError, match=message):
        predict(classifier, Source(str(rows)), rows.parent / output)
    assert rows.read_bytes() == before


def test_an_older_file_of_predictions_is_replaced(classifier: Classifier, rows: Path) -> None:
    output = rows.parent / "p.csv"
    output.write_text("old")
    check_output(output, str(rows))
    predict(classifier, Source(str(rows)), output)
    assert output.read_text().startswith("row,predicted,")


def test_batches_of_no_rows_are_refused(classifier: Classifier, rows: Path) -> None:
    with pytest.raises(InputError, match="--batch-size 0: expected at least 1"):
        predict(classifier, Source(str(rows)), rows.parent / "p.csv", batch_size=0)
    with pytest.raises(InputError, match="--batch-size 0: expected at least 1"):
        evaluate(classifier, Source(str(rows)), batch_size=0)
