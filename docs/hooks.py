"""Put the README and the changelog, which lie outside docs/, into the site that mkdocs builds."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside, under the name that it has in the site."""
    for source, page in OUTSIDE.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=moved(content, source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The text of a page of docs/ with links to those files."""
    path = page.file.src_uri
    return markdown if path in OUTSIDE.values() else moved(markdown, f"docs/{path}")


def moved(markdown: str, source: str) -> str:
    """Text of the file `source` of the repository with its links as they are in the site."""
    place = posixpath.dirname(source)
    here = posixpath.dirname(OUTSIDE.get(source, source.removeprefix("docs/")))

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(place, found[1]))
        if target not in OUTSIDE and not target.startswith("docs/"):
            return found[0]
        page = OUTSIDE.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(page, here or '.')}{found[2] or ''})"

    return re.sub(r"\]\((?![a-z]+:)([^)#\s]+)(#[^)\s]*)?\)", link, markdown)
