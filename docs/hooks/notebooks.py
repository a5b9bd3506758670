"""Makes a page of each notebook: its text, and its code as it stands."""

import json
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def page(notebook: dict[str, Any]) -> str:
    """The cells of a notebook in Markdown."""
    cells = [("".join(cell["source"]), cell["cell_type"] == "markdown") for cell in notebook["cells"]]
    # Without the table of contents there is room for lines of 120 characters.
    return (
        "---\nhide: [toc]\n---\n\n"
        + "\n\n".join(source if is_text else f"```python\n{source}\n```" for source, is_text in cells)
        + "\n"
    )


def on_files(files: Files, config: Any) -> Files:
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        content = page(json.loads(path.read_text(encoding="utf-8")))
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=content))
    return files
