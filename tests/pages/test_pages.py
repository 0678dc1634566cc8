"""The built pages, without a browser: links, addresses, alternative texts. `make html` builds them."""

import re
import tomllib
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build/html"
BOOK = ROOT / "book"
PAGES = sorted(p.relative_to(HTML).as_posix() for p in HTML.rglob("*.html") if "_static" not in p.parts)
CHAPTERS = sorted(p.relative_to(BOOK).with_suffix("").as_posix() for p in BOOK.rglob("*.ipynb"))
OUTSIDE = re.compile(r"(https?:)?//")


@cache
def soup(page):
    return BeautifulSoup((HTML / page).read_text("utf8"), "html.parser")


@cache
def anchors(page):
    return {tag[name] for name in ("id", "name") for tag in soup(page).find_all(attrs={name: True})}


def test_every_page_of_the_book_is_built():
    sources = {p.relative_to(BOOK).with_suffix(".html").as_posix() for p in BOOK.rglob("*.md")}
    assert sources | {f"{chapter}.html" for chapter in CHAPTERS} <= set(PAGES), "run `make html`"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    broken = []
    for tag in soup(page).find_all(True):
        for address in (tag.get("href"), tag.get("src")):
            if not address or re.match(r"\w+:|//", address):
                continue
            path, anchor = urldefrag(address)
            path = path.split("?")[0]
            target = (HTML / page).parent / unquote(path) if path else HTML / page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                broken.append(address)
            elif anchor and target.suffix == ".html":
                name = target.resolve().relative_to(HTML.resolve()).as_posix()
                if unquote(anchor) not in anchors(name):
                    broken.append(address)
    assert not broken


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_loaded_from_another_host(page):
    wanted = []
    for tag in soup(page).find_all(["script", "img", "iframe", "source", "video", "audio", "embed", "object"]):
        wanted += [tag.get(name, "") for name in ("src", "srcset", "data", "poster")]
    loading = {"stylesheet", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch", "icon"}
    wanted += [tag["href"] for tag in soup(page).find_all("link", href=True) if loading & set(tag.get("rel", []))]
    assert not [address for address in wanted if OUTSIDE.match(address)]


def test_no_style_sheet_loads_from_another_host():
    used = {
        ((HTML / page).parent / urldefrag(tag["href"])[0].split("?")[0]).resolve()
        for page in PAGES
        for tag in soup(page).find_all("link", rel="stylesheet", href=True)
    }
    assert used
    for sheet in used:
        text = sheet.read_text("utf8")
        assert not re.search(r"(url\(\s*|@import\s+)[\"']?(https?:)?//", text), sheet


@pytest.mark.parametrize("page", PAGES)
def test_every_image_has_an_alternative_text(page):
    assert not [str(image)[:200] for image in soup(page).find_all("img") if not image.get("alt", "").strip()]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_colab_and_download_lead_to_the_chapter(chapter):
    """The Colab button names a file of the repository at its tag, and the download is that file, unchanged."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    url, tag = project["urls"]["Repository"], f"v{project['version']}"
    links = [tag["href"] for tag in soup(f"{chapter}.html").find_all("a", href=True)]
    colab = [link for link in links if link.startswith("https://colab.research.google.com/")]
    base = url.replace("https://github.com/", "https://colab.research.google.com/github/")
    assert colab == [f"{base}/blob/{tag}/book/{chapter}.ipynb"]
    downloads = [link for link in links if link.endswith(".ipynb") and "_sources" in link]
    assert downloads
    source = (BOOK / f"{chapter}.ipynb").read_bytes()
    assert all(((HTML / f"{chapter}.html").parent / link).read_bytes() == source for link in downloads)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_shows_what_it_computed(chapter):
    """An output on the page means that the executed copy was built; a traceback, that a cell failed."""
    article = soup(f"{chapter}.html").find("article")
    assert article.select(".cell_output")
    assert "Traceback (most recent call last)" not in article.get_text()
