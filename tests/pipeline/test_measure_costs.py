import logging
import sys

import pytest

from hf_finetune.pipeline.measure_costs import isolated


def test_libraries_say_nothing_meanwhile(capsys: pytest.CaptureFixture[str]) -> None:
    """Also those whose handlers hold the stderr of their import."""
    library = logging.getLogger("a_library")
    handler = logging.StreamHandler(sys.stderr)
    library.addHandler(handler)
    try:
        with isolated() as folder:
            library.warning("some weights were not used")
            print("10%", file=sys.stderr)
            assert folder.is_dir()
        assert capsys.readouterr().err == "" and not folder.exists()
        library.warning("afterwards")
    finally:
        library.removeHandler(handler)
    assert capsys.readouterr().err == "afterwards\n"
