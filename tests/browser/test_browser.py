"""Every built page in Chromium, light and dark, at 1280 and 360 px. CHROMIUM names another browser binary."""

import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

HTML = Path(__file__).resolve().parents[2] / "_build/html"
PAGES = sorted(p.relative_to(HTML).as_posix() for p in HTML.rglob("*.html") if "_static" not in p.parts)
BINARIES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MACOS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def site():
    """The address of the book, served as it would be on the web."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=HTML)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser():
    named = os.environ.get("CHROMIUM")
    found = named or next(filter(None, map(shutil.which, BINARIES)), None)
    found = found or next((path for path in MACOS if Path(path).exists()), None)
    if not found or not shutil.which(found):
        pytest.fail(f"no Chromium ({named or ', '.join(BINARIES)}): install one, or set CHROMIUM to its path")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    quiet += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=quiet)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, site):
    """visit(page, scheme) -> (the loaded page, a list that fills with what goes wrong on it)."""
    contexts = []

    def open_page(name, scheme="light"):
        context = browser.new_context(
            color_scheme=scheme, reduced_motion="reduce", viewport={"width": 1280, "height": 900}
        )
        contexts.append(context)
        context.set_default_timeout(120_000)  # a busy machine is slow, not wrong
        wrong = []

        def route(route):
            if route.request.url.startswith((site, "data:", "blob:")):
                route.continue_()
            else:
                wrong.append(f"request to {route.request.url}")
                route.abort()

        context.route("**/*", route)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "response",
            lambda reply: wrong.append(f"{reply.status} {reply.url}") if reply.status >= 400 else None,
        )
        page.goto(site + name, wait_until="networkidle")
        # The theme's script has run once it has resolved "auto".
        page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
        return page, wrong

    yield open_page
    for context in contexts:
        context.close()


def overflow(page):
    """Elements that make the page wider than the window, if it is."""
    return page.evaluate(
        """() => {
          const width = document.documentElement.clientWidth;
          if (document.documentElement.scrollWidth <= width) return [];
          return [...document.querySelectorAll('body *')]
            .filter(e => e.getBoundingClientRect().right > width + 1)
            .slice(0, 5).map(e => e.outerHTML.slice(0, 120));
        }"""
    )


def serious(page):
    page.wait_for_timeout(500)  # colours still change for a moment after loading
    # Without preload: axe would fetch the style sheets again, from wrong addresses.
    violations = Axe().run(page, options={"preload": False}).response["violations"]
    return [
        f"{found['id']}: {node['html'][:150]}"
        for found in violations
        if found["impact"] in {"serious", "critical"}
        for node in found["nodes"][:3]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_page(visit, name, scheme):
    page, wrong = visit(name, scheme)
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 900})
        wrong += [f"{width} px, too wide: {element}" for element in overflow(page)]
        # Colours do not depend on the width, nor names and order on the colours: every page is looked at in both.
        if (width, scheme) in {(1280, "light"), (360, "dark")}:
            wrong += [f"{width} px, {violation}" for violation in serious(page)]
    formulas = page.locator(".math")
    if formulas.count():
        page.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise")
        page.evaluate("MathJax.startup.promise")
        wrong += [
            f"formula not rendered: {text}" for text in page.locator(".math:not(:has(mjx-container))").all_inner_texts()
        ]
        wrong += [f"formula with an error: {text}" for text in page.locator("mjx-merror").all_inner_texts()]
    assert not wrong, "\n".join(wrong)


def test_there_are_pages():
    assert "index.html" in PAGES, "run `make html`"


def test_search_finds_a_page(visit):
    page, wrong = visit("search.html?q=activation")
    page.wait_for_selector("#search-results li a")
    assert not wrong
    page.locator("#search-results li a").first.click()
    page.wait_for_selector("article h1")


def test_search_opens_from_the_keyboard(visit):
    page, wrong = visit("index.html")
    page.keyboard.press("Control+k")
    page.locator("input[type=search]:visible").first.fill("activation")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    assert "search.html?q=activation" in page.url
    assert page.locator("#search-results li a").first.inner_text().strip()
    assert not wrong


def test_the_playground_follows_its_sliders_by_keyboard(visit):
    """CAM-loss, Eq. 1: two channels with means 1.5 and 1."""
    page, wrong = visit("1-foundations/10-class-activation-maps.html")
    page.get_by_text("mean of the CAM 1.00").wait_for()
    page.get_by_label("weight of channel 0").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("mean of the CAM 1.15").wait_for()
    page.get_by_text("= logit 1.65").wait_for()
    assert not wrong


def test_the_time_lapse_shows_the_epoch_chosen_by_keyboard(visit):
    page, wrong = visit("2-cam-loss/10-cam-loss.html")
    lapse = page.locator("figure:has(fieldset)")
    pictures = lapse.locator("img")
    shown = [number for number in range(pictures.count()) if pictures.nth(number).is_visible()]
    assert shown == [pictures.count() - 1]
    lapse.locator("input:checked").focus()
    page.keyboard.press("ArrowLeft")
    assert pictures.nth(shown[0] - 1).is_visible()
    assert not pictures.nth(shown[0]).is_visible()
    assert not wrong


def test_every_run_can_be_searched(visit):
    page, wrong = visit("records.html")
    page.locator(".records").get_by_label("Search").fill("mnist cc")
    page.wait_for_function(
        """() => {
          const rows = [...document.querySelectorAll('.records tbody tr')].filter(row => row.offsetParent);
          return rows.length && rows.every(row => /mnist.*cc/.test(row.innerText));
        }"""
    )
    assert not wrong


@pytest.mark.parametrize("name", PAGES)
def test_a_page_weighs_at_most_3_mb(name):
    """Without what all pages share; the charts' script is for a few of them alone."""
    text = (HTML / name).read_text("utf8")
    charts = (HTML / "_static/charts.js").stat().st_size if "_static/charts.js" in text else 0
    assert len(text.encode()) + charts <= 3e6
