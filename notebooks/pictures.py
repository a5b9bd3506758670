"""Runs notebooks and keeps a picture of each for the gallery: `python notebooks/pictures.py [NOTEBOOK ...]`."""

import base64
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
PICTURES = HERE.parent / "docs" / "figures" / "tutorials"


def picture(path: Path) -> bytes:
    """The last figure that a notebook draws, as PNG."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(HERE)}}).execute()
    drawn = [
        output["data"]["image/png"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    return base64.b64decode(drawn[-1])


if __name__ == "__main__":
    PICTURES.mkdir(parents=True, exist_ok=True)
    for path in [Path(name) for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")):
        (PICTURES / f"{path.stem}.png").write_bytes(picture(path))
        print(path.name, flush=True)
