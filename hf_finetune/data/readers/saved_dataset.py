"""Reader of a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""

from __future__ import annotations

from pathlib import Path

import datasets

from hf_finetune.data.config import Source
from hf_finetune.data.image_paths import within
from hf_finetune.data.readers.dataset_split import DatasetSplit
from hf_finetune.data.readers.table import check_rows
from hf_finetune.errors import InputError
from hf_finetune.utils.messages import one_line


def is_saved_dataset(folder: Path) -> bool:
    """Return whether `save_to_disk` wrote a folder."""
    is_single = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return is_single or (folder / "dataset_dict.json").is_file()


def saved_splits(folder: Path, source: Source) -> dict[str, DatasetSplit]:
    """Return the splits of a folder of `save_to_disk`.

    Raises:
        InputError: it is damaged, or has more rows than the limits allow.
    """
    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # each damaged file raises its own
        raise InputError(
            f"{folder}: not a readable folder of save_to_disk ({one_line(error)}); save the data set again"
        ) from error
    parts = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
    images = within(folder, source.image_root)
    for name, rows in parts.items():
        size = sum(Path(file["filename"]).stat().st_size for file in rows.cache_files)
        check_rows(f"{folder}, split {name}", len(rows), size, source.limits)
    return {
        name: DatasetSplit(f"{folder}, split {name}", rows, images, source.limits, source.drop_bad_rows)
        for name, rows in parts.items()
    }
