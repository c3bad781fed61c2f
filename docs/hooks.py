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
    """Text of the file `source` of the repository with its links as they are in the site.

    A link to a file of the repository that is no page leaves its words behind. One to a file that
    is not there stays, for mkdocs to complain about.
    """
    place = posixpath.dirname(source)
    here = posixpath.dirname(OUTSIDE.get(source, source.removeprefix("docs/")))

    def link(found: re.Match[str]) -> str:
        words, path, anchor = found.groups()
        target = posixpath.normpath(posixpath.join(place, path))
        if target in OUTSIDE or target.startswith("docs/"):
            page = OUTSIDE.get(target, target.removeprefix("docs/"))
            return f"[{words}]({posixpath.relpath(page, here or '.')}{anchor or ''})"
        return words if not target.startswith("..") and (ROOT / target).exists() else found[0]

    return re.sub(r"\[([^\]\n]*)\]\((?![a-z]+:)([^)#\s]+)(#[^)\s]*)?\)", link, markdown)
