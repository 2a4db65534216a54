"""The scripts that load with plain libraries. They are not imported here: that takes seconds."""

from pathlib import Path

NETWORK, CLASSICAL = (Path(__file__).with_name(f"plain_{name}.py") for name in ("loading", "classical"))
