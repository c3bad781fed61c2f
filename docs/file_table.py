"""Write the table of files on the architecture page: `python docs/file_table.py`.

A row is the first sentence of a file. Packages stand in the order of their floors.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import moegrow

PAGE = Path(__file__).parent / "architecture.md"
HOME = Path(moegrow.__file__).parent
MARK = "<!-- Made by docs/file_table.py from the first sentences; a test keeps it current. -->"
# From the files on the disk up to the command line; "" are files outside of packages.
PACKAGES = (
    "", "files", "checkpoint", "quant", "families", "recipes", "model_config", "planning",
    "kernels", "write", "analysis", "cli",
)  # fmt: skip


def first_sentence(file: Path) -> str:
    """The first paragraph of a file's docstring in one line, for a cell of a table."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").replace("|", r"\|")


def rows() -> Iterator[str]:
    """The lines of the table."""
    yield "| file | job |"
    yield "|---|---|"
    for package in PACKAGES:
        folder = HOME / package
        if package:
            yield f"| **{package}/** | **{first_sentence(folder / '__init__.py')}** |"
        for file in sorted(folder.glob("*.py")):
            if not package or file.stem != "__init__":
                name = f"{package}/{file.stem}" if package else file.stem
                yield f"| `{name}` | {first_sentence(file)} |"


def page(text: str) -> str:
    """The text of the page with the current table at its end."""
    head, mark, _ = text.partition(MARK)
    if not mark:
        raise ValueError(f"{PAGE.name} has no line {MARK}")
    return f"{head}{mark}\n\n" + "\n".join(rows()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
