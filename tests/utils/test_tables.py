import errno
import resource
from pathlib import Path

import pyarrow as pa
import pytest

from hf_finetune.utils.disk_errors import DiskError
from hf_finetune.utils.tables import table_writer


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_full_disk_names_the_output(tmp_path: Path, suffix: str) -> None:
    """Most is written when the file is closed; nothing is left behind."""
    table = pa.table({"row": [0, 1], "predicted": ["bad", "good"]})
    output, (limit, hard) = tmp_path / f"labels.{suffix}", resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError) as caught:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
        try:
            with table_writer(output, table.schema) as write:
                write(table)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    error = DiskError.of(caught.value)
    assert error is not None and (error.number, error.path) == (errno.EFBIG, output)
    assert not list(tmp_path.iterdir())
