"""The site is built from the pages, its links lead somewhere, and nothing comes from elsewhere."""

import os
import posixpath
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from repository import ROOT

# Not with --quiet: mkdocs then does not count the warnings that --strict fails on.
MKDOCS = [sys.executable, "-m", "mkdocs", "build", "--strict"]

# What a browser fetches by itself, unlike the links that a reader may follow.
LOADING = {
    ("script", "src"), ("link", "href"), ("img", "src"), ("img", "srcset"), ("iframe", "src"),
    ("source", "src"), ("source", "srcset"), ("video", "src"), ("audio", "src"), ("embed", "src"),
    ("object", "data"), ("use", "href"), ("image", "href"), ("input", "src"), ("track", "src"),
}  # fmt: skip


class Page(HTMLParser):
    """The anchors and links of an HTML file, what it loads, and its styles."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.styles: list[str] = []
        self.in_style = False
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.in_style = tag == "style"
        for name, value in attributes:
            if name == "id" and value:
                self.anchors.add(value)
            elif name == "style" and value:
                self.styles.append(value)
            elif (tag, name) in LOADING and value:
                self.loads.append(value)
            elif name == "href" and value:
                self.links.append(value)

    def handle_endtag(self, tag: str) -> None:
        self.in_style = False

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self.styles.append(data)


def build(source: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a folder that holds a mkdocs.yml, as CI and a person would."""
    return subprocess.run(
        [*MKDOCS, "--site-dir", folder], cwd=source, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    """Every page of the site by its path."""
    return {str(file.relative_to(site)): Page(file) for file in sorted(site.rglob("*.html"))}


def target(path: str, link: str, site: Path) -> str:
    """The file of the site to which a link on the page `path` leads."""
    where = unquote(urlsplit(link).path)
    # The page for what is not found is served from anywhere, so its links begin at the root.
    found = where.lstrip("/") if where.startswith("/") else f"{posixpath.dirname(path)}/{where}"
    found = posixpath.normpath(found.lstrip("/") if where else path)
    return posixpath.normpath(f"{found}/index.html") if (site / found).is_dir() else found


def elsewhere(address: str) -> bool:
    return bool(urlsplit(address).netloc) or urlsplit(address).scheme in {"http", "https"}


def test_every_page_of_the_documentation_is_in_the_site(pages):
    texts = (page.relative_to(ROOT / "docs").with_suffix("") for page in ROOT.glob("docs/**/*.md"))
    written = {str(text).removesuffix("/index") for text in texts}
    assert written
    built = {posixpath.dirname(path) for path in pages} - {"", "changelog"}
    assert built == written
    assert {"index.html", "changelog/index.html"} <= pages.keys()


def test_every_link_leads_to_a_file_of_the_site_and_every_anchor_to_a_place(site, pages):
    followed = 0
    for path, page in pages.items():
        for link in page.links + page.loads:
            if elsewhere(link) or link.startswith("data:"):
                continue
            assert not urlsplit(link).scheme, f"{path}: {link}"
            found = target(path, link, site)
            assert (site / found).is_file(), f"{path}: {link}"
            anchor = unquote(urlsplit(link).fragment)
            if anchor and found in pages and anchor != "__skip":
                assert anchor in pages[found].anchors, f"{path}: {link}"
            followed += 1
    assert followed > 500


def test_no_page_loads_anything_from_elsewhere(site, pages):
    styles = [file.read_text() for file in site.rglob("*.css")]
    assert len(styles) > 2
    for path, page in pages.items():
        assert page.loads
        assert not [address for address in page.loads if elsewhere(address)], path
        styles += page.styles
    for style in styles:
        for address in re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", style):
            assert not elsewhere("".join(address)), address
    # The theme's scripts fetch from elsewhere for a repository and for diagrams alone.
    text = (ROOT / "mkdocs.yml").read_text()
    assert not re.search("repo_url|mermaid|analytics", text)
    assert not any("mermaid" in (site / path).read_text() for path in pages)


def test_pictures_load_nothing(site):
    drawings = list((site / "drawings").glob("*.svg"))
    assert drawings
    for file in drawings:
        assert not re.search(r"href|url\((?!#)|@import|<script", file.read_text()), file.name


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[nowhere](nowhere.md)", "nowhere.md"),
        ("[no place](other.md#none)", "#none"),
        ("[outside](../README.md)", "../README.md"),
    ],
)
def test_a_broken_link_fails_the_build(tmp_path, line, says):
    text = (ROOT / "mkdocs.yml").read_text()
    nav = re.compile(r"^nav:\n(?:  .*\n|\n)+", re.M)
    assert nav.search(text)
    text = nav.sub("nav: [{Here: index.md}, {Other: other.md}]\n", text)
    text = re.sub(r"^hooks:\n  .*\n", "", text, flags=re.M)
    (tmp_path / "mkdocs.yml").write_text(text)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "other.md").write_text("# Other\n")
    (tmp_path / "docs" / "index.md").write_text("# Here\n\n[fine](other.md#other)\n")
    assert build(tmp_path, tmp_path / "site").returncode == 0
    with (tmp_path / "docs" / "index.md").open("a") as page:
        page.write(f"\n{line}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert says in done.stderr


@pytest.mark.parametrize(
    ("name", "says"),
    [("new.md", 'not included in the "nav"'), ("faq.md", "../tests/nothing.py")],
)
def test_a_page_without_a_place_and_a_link_out_of_the_repository_fail_the_build(
    tmp_path, name, says
):
    for file in ("mkdocs.yml", "README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / file, tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=lambda *_: ["__pycache__"])
    with (tmp_path / "docs" / name).open("a") as page:
        page.write("\n[a test](../tests/system/test_site.py), [none](../tests/nothing.py)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert name in done.stderr
    assert says in done.stderr
    assert "test_site.py" not in done.stderr
