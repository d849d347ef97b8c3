"""Where this user's embedded store is."""

import os
from pathlib import Path


def home() -> Path:
    """`$MLENV_HOME`, or the platform's directory for a user's data (`~/.local/share/mlenv` on Linux)."""
    if configured := os.environ.get("MLENV_HOME"):
        return Path(configured).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("mlenv", appauthor=False)
