"""The splits of a file or folder."""

import json
from pathlib import Path

import pytest
from helpers.loading import locate

from hf_finetune.data.layout import Layout
from hf_finetune.data.sources import local_path
from hf_finetune.errors import InputError


def put(root: Path, *files: str) -> Path:
    """Create empty files with their folders."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("text,label\na,b\n" if file.endswith("csv") else "some text")
    return root


def error_of(path: Path | str, kind: str | None = "text", **options) -> str:
    with pytest.raises(InputError) as caught:
        locate(path, kind, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files(layout: Layout) -> dict[str, list[str]]:
    """Return file names by split: data files, or the files of a class folder."""
    return {
        name: [f for s in split.readers for f in (s.files if "ClassFolder" in repr(s) else [s.path.name])]
        for name, split in layout.splits.items()
    }


def test_a_file_is_train(tmp_path: Path) -> None:
    put(tmp_path, "test.CSV", "x.tsv")
    assert list(locate(tmp_path / "test.CSV").splits) == ["train"]
    assert list(locate(tmp_path / "x.tsv").splits) == ["train"]


def test_split_files(tmp_path: Path) -> None:
    put(tmp_path, "Train.csv", "dev.csv", "test.csv", "extra.csv", "README.md", ".hidden.csv", "__pycache__/x.pyc")
    layout = locate(tmp_path)
    assert files(layout) == {"train": ["Train.csv"], "dev": ["dev.csv"], "test": ["test.csv"]}
    assert list(layout.others) == ["extra"]
    assert layout.notes == (f"ignored in the folder {tmp_path.name}: README.md, extra.csv",)


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_names_of_validation_files(tmp_path: Path, name: str) -> None:
    put(tmp_path, "train.json", f"{name}.jsonl")
    assert set(locate(tmp_path).splits) == {"train", name}


def test_shards_in_a_data_folder(tmp_path: Path) -> None:
    put(tmp_path, "README.md", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet")
    put(tmp_path, "data/test-00000-of-00001-0123abcdef.parquet")
    assert files(locate(tmp_path)) == {
        "test": ["test-00000-of-00001-0123abcdef.parquet"],
        "train": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
    }


def test_incomplete_or_doubled_splits(tmp_path: Path) -> None:
    put(tmp_path / "a", "train-00000-of-00002.parquet")
    assert "a: 1 of the 2 files of split train are there; add the others" in error_of(tmp_path / "a")
    put(tmp_path / "b", "train.csv", "train.parquet")
    assert "b: several files for the split train" in error_of(tmp_path / "b")
    put(tmp_path / "c", "train.csv", "train-00000-of-00001.csv")
    assert "several files for the split train" in error_of(tmp_path / "c")


def test_class_folders(tmp_path: Path) -> None:
    put(
        tmp_path,
        "b-c/1.txt",
        "b/2.txt",
        "b/10.txt",
        "b/deep/3.TXT",
        "a/1.txt",
        "a/note.md",
        ".git/x.txt",
        "b/__x__/y.txt",
    )
    put(tmp_path, "empty/note.md", "README.md", "a/.hidden.txt")
    layout = locate(tmp_path)
    assert files(layout) == {"train": ["a/1.txt", "b/10.txt", "b/2.txt", "b/deep/3.TXT", "b-c/1.txt"]}
    assert layout.notes == (f"ignored in the folder {tmp_path.name}: README.md, empty",)
    source = layout.splits["train"].readers[0]
    chunks = list(source.chunks(["text", "label"], 2))
    assert [label for c in chunks for label in c.columns["label"]] == ["a", "b", "b", "b", "b-c"]
    assert chunks[1].place(0) == str(tmp_path / "b/2.txt")


def test_class_folders_below_split_folders(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png", "train/b/1.jpg", "Val/a/1.webp", "test/1.bmp", "other/a/1.png")
    layout = locate(tmp_path, "image")
    assert files(layout) == {"train": ["a/1.png", "b/1.jpg"], "val": ["a/1.webp"], "test": ["1.bmp"]}
    columns = [list(layout.splits[name].columns) for name in ("train", "val", "test")]
    assert columns == [["image", "label"], ["image", "label"], ["image"]]
    assert layout.notes == (f"ignored in the folder {tmp_path.name}: other",)


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    put(tmp_path, "train/1.txt", "bus/1.txt")
    assert files(locate(tmp_path)) == {"train": ["bus/1.txt", "train/1.txt"]}


def test_images_are_named_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "pets", "cat/1.png", "dog/1.png")
    monkeypatch.chdir(tmp_path)
    chunk = next(locate(Path("pets"), "image").splits["train"].chunks(["image", "label"]))
    assert chunk.columns["image"][0] == {"bytes": None, "path": str(tmp_path / "pets/cat/1.png")}
    assert chunk.place(0) == "pets/cat/1.png"


def test_loose_files_have_no_class(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png")
    assert "its files have no class; expected one sub-folder per class" in error_of(tmp_path, "image")
    assert files(locate(tmp_path, "image", labeled=False)) == {"train": ["1.png", "2.png"]}


def test_the_kind_may_be_open(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "a/2.png", "b/1.txt")
    assert list(locate(tmp_path, None).splits["train"].columns) == ["image", "label"]
    put(tmp_path, "b/2.txt", "b/3.txt")
    assert list(locate(tmp_path, None).splits["train"].columns) == ["text", "label"]


def test_nothing_to_read(tmp_path: Path) -> None:
    put(tmp_path / "a", "reviews.csv", "x.md")
    assert f"no file in it is called train, validation or test; name a file instead, like {tmp_path}/a/reviews.csv" in (
        error_of(tmp_path / "a")
    )
    put(tmp_path / "b", "x.md", "y.pdf")
    assert error_of(tmp_path / "b").endswith(
        "found no data; expected train, validation and test files (.csv .tsv .json .jsonl .fasta .conll .iob .iob2 .bio .xlsx .parquet), "
        "or one sub-folder of .txt files per class; it holds x.md, y.pdf"
    )
    (tmp_path / "c").mkdir()
    assert "one sub-folder of images per class; it holds nothing" in error_of(tmp_path / "c", "image")
    put(tmp_path / "d", "cat/1.png", "dog/1.png")
    assert "the folder holds images, expected texts; choose a checkpoint for images" in error_of(tmp_path / "d")
    put(tmp_path / "e", "cat/1.txt", "dog/1.txt")
    assert "the folder holds texts, expected images" in error_of(tmp_path / "e", "image")
    put(tmp_path, "x.docx", "Makefile")
    assert error_of(tmp_path / "x.docx").endswith(
        "cannot read .docx files; expected one of .csv .tsv .json .jsonl .fasta .conll .iob .iob2 .bio .xlsx .parquet .txt"
    )
    assert "cannot read files without a suffix" in error_of(tmp_path / "Makefile")


def test_hub_flags_do_not_go_with_local_data(tmp_path: Path) -> None:
    put(tmp_path, "a.csv")
    assert error_of(tmp_path / "a.csv", config_name="mnli").startswith("--config-name mnli: ")
    assert error_of(tmp_path, revision="main") == f"--revision main: {tmp_path} is a local folder; leave the flag out"


@pytest.mark.parametrize(
    "path",
    ["no/such/folder", "./sst2", "/sst2", "train.csv", "data/train.csv", "pets/cat.png", "", "~/x", "a b", "x.arrow"],
)
def test_what_is_missing_and_no_hub_id(path: str) -> None:
    with pytest.raises(InputError, match="no such file or folder; expected one, or a Hub id like stanfordnlp/sst2"):
        local_path(path)


@pytest.mark.parametrize("path", ["sst2", "stanfordnlp/sst2", "user/my.data-set_2"])
def test_what_may_be_a_hub_id(path: str) -> None:
    assert local_path(path) is None


def test_shards_must_have_the_same_columns(tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00002.jsonl").write_text(json.dumps({"text": "a"}))
    (tmp_path / "train-00001-of-00002.jsonl").write_text(json.dumps({"txt": "a"}))
    with pytest.raises(
        InputError, match=r"train-00001-of-00002\.jsonl: no column 'text', which .*train-00000-of-00002\.jsonl has"
    ):
        list(locate(tmp_path).splits["train"].chunks(["text"]))
