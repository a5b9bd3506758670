"""Makes a page of each notebook: its text, its code, and its last picture."""

import json
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def page(notebook: dict[str, Any], picture: str) -> str:
    """The cells of a notebook in Markdown, with a picture after the cell that draws it."""
    cells = [("".join(cell["source"]), cell["cell_type"] == "markdown") for cell in notebook["cells"]]
    draws = max(place for place, (source, is_text) in enumerate(cells) if not is_text and "plt." in source)
    cells.insert(draws + 1, (f"![The figure that this code draws]({picture})", True))
    # Without the table of contents there is room for lines of 120 characters.
    return (
        "---\nhide: [toc]\n---\n\n"
        + "\n\n".join(source if is_text else f"```python\n{source}\n```" for source, is_text in cells)
        + "\n"
    )


def on_files(files: Files, config: Any) -> Files:
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        picture = f"../figures/tutorials/{path.stem}.png"
        content = page(json.loads(path.read_text(encoding="utf-8")), picture)
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=content))
    return files
