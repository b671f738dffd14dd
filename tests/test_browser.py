"""A real browser opens every page of the book from disk, with the network refused.

Each page is visited once; the tests below ask what was seen. They are skipped where no Chromium is
installed (Debian: ``apt install chromium``).
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from test_book import build

pytestmark = [pytest.mark.book, pytest.mark.slow]

CHROMIUM = next(filter(None, map(shutil.which, build.BROWSERS)), None)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 800}
MATHEMATICS = """async () => {
  const formulas = document.querySelectorAll("span.math, div.math");
  if (formulas.length) await MathJax.startup.promise;
  const unset = [...formulas].filter(formula => !formula.querySelector("mjx-container"));
  const wrong = document.querySelectorAll("mjx-merror");
  return [formulas.length, unset.length + wrong.length];
}"""

AXE = {"preload": False, "resultTypes": ["violations"]}  # preloading would fetch styles by script

SAME_EVERYWHERE = "pre, mjx-container, .bd-sidebar-primary"
"""Code, formulas and the list of pages look the same everywhere and take longest: two pages are
enough for them, and elsewhere they are taken out before the search."""
TAKE_OUT = "all => document.querySelectorAll(all).forEach(one => one.replaceChildren())"

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@dataclass
class Visit:
    """What a browser saw on one page."""

    formulas: int = 0
    formulas_not_set: int = 0
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    too_wide: dict[int, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(book_folder: Path) -> list[Path]:
    folder = book_folder / "html"
    return sorted(p for p in folder.rglob("*.html") if "_static" not in p.parts)


def open_page(browser, visit: Visit, **options):
    """Return a tab that refuses the network and remembers every complaint."""
    # Colours fade in as a page opens; one that is still fading says nothing of its contrast.
    options = {"viewport": DESKTOP, "offline": True, "reduced_motion": "reduce", **options}
    context = browser.new_context(**options)
    tab = context.new_page()

    def note(request) -> None:
        if urlsplit(request.url).scheme not in ("file", "data", "blob"):
            visit.requests.append(request.url)

    tab.on("request", note)
    tab.on("requestfailed", lambda request: visit.requests.append(request.url))
    tab.on("pageerror", lambda error: visit.complaints.append(str(error)))
    tab.on(
        "console",
        lambda said: visit.complaints.append(said.text) if said.type == "error" else None,
    )
    return tab


def faults(tab) -> list[str]:
    """Return what axe-core finds serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    found = []
    for fault in Axe().run(tab, options=AXE).response["violations"]:
        if fault["impact"] in ("serious", "critical"):
            where = "; ".join(node["html"][:120] for node in fault["nodes"][:2])
            found.append(f"{fault['id']} ({len(fault['nodes'])}): {where}")
    return found


def see(tab, noticed: Visit, path: Path, *, thoroughly: bool = True) -> Visit:
    """Visit one page; one that is like another need not be searched for faults again.

    The tab, which goes from page to page, tells its requests and complaints to ``noticed``.
    """
    tab.set_viewport_size(DESKTOP)
    tab.goto(path.as_uri())
    visit = Visit(*tab.evaluate(MATHEMATICS))
    for size in (PHONE, DESKTOP):
        tab.set_viewport_size(size)
        visit.too_wide[size["width"]] = tab.evaluate(OVERFLOW)
    if thoroughly:
        tab.evaluate(TAKE_OUT, SAME_EVERYWHERE)
        visit.faults = faults(tab)
    visit.requests, noticed.requests = noticed.requests, []
    visit.complaints, noticed.complaints = noticed.complaints, []
    return visit


@pytest.fixture(scope="module")
def visits(browser, pages, book_folder) -> dict[str, Visit]:
    listed = build.load_book(book_folder, quick=True).pages
    firsts = {
        page.source: page.name for page in reversed(listed)
    }  # of pages made from one notebook
    repeated = {page.name for page in listed} - set(firsts.values())
    folder, seen, noticed = book_folder / "html", {}, Visit()
    tab = open_page(browser, noticed)
    for page in pages:
        name = page.relative_to(folder).with_suffix("").as_posix()
        seen[name] = see(tab, noticed, page, thoroughly=name not in repeated)
    tab.context.close()
    return seen


def test_no_page_asks_for_the_network_or_for_a_file_that_is_not_there(visits):
    assert {name: visit.requests for name, visit in visits.items() if visit.requests} == {}


def test_no_page_complains_in_the_console(visits):
    assert {name: visit.complaints for name, visit in visits.items() if visit.complaints} == {}


def test_mathematics_is_set(visits):
    assert sum(visit.formulas for visit in visits.values()) > 50
    assert {n: v.formulas_not_set for n, v in visits.items() if v.formulas_not_set} == {}


def test_pages_can_be_read_by_everyone(visits):
    assert {name: visit.faults for name, visit in visits.items() if visit.faults} == {}


@pytest.mark.parametrize("width", [DESKTOP["width"], PHONE["width"]])
def test_no_page_scrolls_sideways(visits, width):
    wide = {name: visit.too_wide[width] for name, visit in visits.items()}
    assert {name: excess for name, excess in wide.items() if excess > 0} == {}


def test_the_search_finds_a_word(browser, book_folder):
    visit = Visit()
    tab = open_page(browser, visit)
    tab.goto((book_folder / "html" / "search.html").as_uri() + "?q=cancellation")
    tab.wait_for_selector("#search-results ul.search li a", timeout=20_000)
    found = tab.locator("#search-results ul.search li a").evaluate_all(
        "all => all.map(a => a.href)"
    )
    assert any("lessons/traps" in address for address in found)
    assert visit.complaints == visit.requests == []
    tab.context.close()


def test_a_quiz_tells_why(browser, book_folder):
    tab = open_page(browser, Visit())
    tab.goto((book_folder / "html" / "lessons" / "traps.html").as_uri())
    answer = tab.locator("article details.right").first
    feedback = answer.locator("p").first
    assert not feedback.is_visible()
    answer.locator("summary").click()
    assert feedback.is_visible()
    assert feedback.inner_text().startswith("Yes")
    tab.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index", "lessons/traps"])
def test_code_and_formulas_can_be_read_in_both_themes(browser, book_folder, name, theme):
    tab = open_page(browser, Visit(), color_scheme=theme)
    tab.goto((book_folder / "html" / f"{name}.html").as_uri())
    tab.evaluate(MATHEMATICS)
    assert faults(tab) == []
    tab.context.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_book_can_be_printed(book_folder):
    from pypdf import PdfReader

    whole = build.load_book(book_folder, quick=True)
    part = [page for page in whole.pages if page.name in ("index", "lessons/traps")]
    build.print_pdf(build.Book(part, book_folder))
    printed = PdfReader(book_folder / "book.pdf")
    assert [entry.title for entry in printed.outline] == [
        "Debugging training data with DeMix",
        "Traps",
    ]
    text = "\n".join(sheet.extract_text() for sheet in printed.pages)
    assert "Training data goes wrong in more than one way at once" in text
    assert "Take-away" in text
    assert "Spread rounding is still rounding" in text, "the answers of a quiz are printed"
    assert "longer(rest, order)" in text, "solutions are printed"


# ------------------------------------------------------------------ links, without a browser


class Links(HTMLParser):
    """Collect the links and the anchors of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}


def test_every_link_within_the_book_leads_somewhere(pages):
    read = {page: Links(page) for page in pages}
    dead = []
    for page, found in read.items():
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or re.match(r"^#?$", link):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchor = unquote(parts.fragment)
            if not target.is_file():
                dead.append(f"{page.name}: {link}")
            elif anchor and target in read and anchor not in read[target].anchors:
                dead.append(f"{page.name}: {link} has no such anchor")
    assert dead == []
