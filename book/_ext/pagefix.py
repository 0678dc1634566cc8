"""What the theme leaves to do on every page: scripts given twice, names and landmarks for screen readers."""

import re
import shutil
from pathlib import Path

import altair
import vl_convert

BOOK = Path(__file__).resolve().parents[1]

REPLACE = (
    # A toggle without a name; names that hide the visible one; a sidebar outside any landmark.
    (
        '<summary><span class="toctree-toggle"',
        '<summary aria-label="Show or hide subsections"><span class="toctree-toggle"',
    ),
    ('<summary aria-label="Toggle hidden content">', "<summary>"),
    (
        'search-button__button pst-js-only" title="Search" aria-label="Search"',
        'search-button__button pst-js-only" title="Search"',
    ),
    (
        'aria-label="Color mode"',
        'aria-label="Color mode: Light, Dark or System Settings"',
    ),
    (
        'class="bd-sidebar-primary bd-sidebar',
        'role="complementary" aria-label="Book contents" class="bd-sidebar-primary bd-sidebar',
    ),
    # pandas: a presentational attribute.
    ('<table border="1" class="dataframe">', '<table class="dataframe">'),
    # docutils: a list role without list items, and roles that are deprecated.
    ('<div role="list" class="citation-list">', '<div class="citation-list">'),
    (' role="doc-biblioentry"', ""),
    (' role="doc-backlink"', ""),
)


# A head that says nothing is a cell; pandas and docutils write some, with attributes or without.
EMPTY_HEAD = re.compile(r"<th((?:\s[^>]*)?)>(?:\s|&nbsp;|<p>\s*</p>)*</th>")


def drop_repeated_scripts(app, pagename, templatename, context, doctree):
    """Sphinx 7 emits some inline scripts twice, and a `const` declared twice is an error on every page."""
    first = {}
    for script in context.get("script_files", []):
        attributes = tuple(
            sorted(
                (key, str(value)) for key, value in script.attributes.items()
            )
        )
        first.setdefault((str(script.filename or ""), attributes), script)
    context["script_files"][:] = first.values()


# Draws what `camlib.notebook.Book.playground` puts on a page.
CHARTS = """<script src="{up}_static/charts.js"></script>
<script>
for (const spec of document.querySelectorAll("script.chart"))
  vegaEmbed(spec.previousElementSibling, JSON.parse(spec.textContent), {{actions: false, renderer: "svg"}});
</script>
"""


def add_charts(text, depth, out):
    """Vega for a page with charts; 0.9 MB that other pages do not load."""
    if '<script type="application/json" class="chart">' not in text:
        return text
    bundle = out / "_static/charts.js"
    if not bundle.exists():
        version = ".".join(
            altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2]
        )
        script = vl_convert.javascript_bundle(vl_version=version)
        # In a scope of its own: it declares names that Sphinx's scripts declare, too.
        bundle.write_text(f"(() => {{{script}}})();", "utf8")
    return text.replace("</body>", CHARTS.format(up="../" * depth) + "</body>")


def finish(app, exception):
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for page in out.rglob("*.html"):
        parts = page.relative_to(out).parts
        if "_static" not in parts:
            text = page.read_text("utf8")
            for old, new in REPLACE:
                text = text.replace(old, new)
            text = EMPTY_HEAD.sub(r"<td\1></td>", text)
            page.write_text(add_charts(text, len(parts) - 1, out), "utf8")
    # The download button gives the chapter as it is in the repository, not the executed copy.
    for executed in (out / "_sources").rglob("*.ipynb"):
        shutil.copyfile(BOOK / executed.relative_to(out / "_sources"), executed)


def setup(app):
    app.connect("html-page-context", drop_repeated_scripts, priority=900)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
