"""Groups of rows by a column of the source."""

from pathlib import Path

import numpy as np
import pytest

from hf_finetune import InputError, TextData
from hf_finetune.data.groups import group_numbers


def test_rows_without_a_value_are_no_group(tmp_path: Path) -> None:
    """Else all of them would be in one fold."""
    path = tmp_path / "rows.csv"
    path.write_text("text,label,author\na,x,ann\nb,y,\nc,x,ann\nd,y,\n")
    source = TextData(path=str(path)).source
    rows = {"train": [0, 1, 3], "validation": [2]}
    numbers_N = group_numbers(source, "text", "author", rows, ("validation",))
    assert len(np.unique(numbers_N)) == 3
    assert numbers_N[0] == numbers_N[3]
    with pytest.raises(InputError, match=r"evaluate\.group: .* has no column 'autor', did you mean 'author'\?"):
        group_numbers(source, "text", "autor", rows, ("validation",))
