"""A hook of MkDocs that makes a page of each notebook: its text, and its code as it stands."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

# The few commands of TeX that the notebooks use, longest first where one begins another.
SYMBOLS = {
    r"\varepsilon": "ε",
    r"\mathcal P": "𝒫",
    r"\partial": "∂",
    r"\nabla": "∇",
    r"\theta": "θ",
    r"\alpha": "α",
    r"\Delta": "Δ",
    r"\otimes": "⊗",
    r"\tfrac N2": "N/2",
    r"\sum_{j=1}^K": "Σ_j",
    r"\neq": "≠",
    r"\ell": "ℓ",
    r"\log": "log ",
    r"\sin": "sin ",
    r"\pi": "π",
    r"\,": " ",
}


def formula(text: str) -> str:
    """A formula in TeX as plain text, in a code span."""
    for command, symbol in SYMBOLS.items():
        text = text.replace(command, symbol)
    return f"`{re.sub(r'[{}]', lambda brace: '(' if brace[0] == '{' else ')', text)}`"


def page(notebook: dict[str, Any]) -> str:
    """The cells of a notebook in Markdown."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\$([^$]+)\$", lambda found: formula(found[1]), source))
        else:
            parts.append(f"```python\n{source}\n```")
    return "\n\n".join(parts) + "\n"


def on_files(files: Files, config: Any) -> Files:
    for path in sorted(Path(__file__).parent.glob("*.ipynb")):
        content = page(json.loads(path.read_text(encoding="utf-8")))
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=content))
    return files
