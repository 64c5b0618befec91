"""The HTML report in a real browser: nothing loaded, nothing logged, everything works."""

import os
import shutil
import subprocess

import pytest

from mmbench.report.build import report

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (test extra)")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """Return Chromium; the Debian package is installed where that is possible."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
        subprocess.run(command, capture_output=True, check=False, timeout=300)
        found = shutil.which("chromium")
    if found is None:
        pytest.skip("there is no Chromium, and it cannot be installed here (not root, or no apt)")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory, template, make):
    """Return the page of two datasets under two protocols, with a hostile remark."""
    results = tmp_path_factory.mktemp("results")
    values = {"concat": 0.5, "sum": 0.4, "iprm": 0.9}
    for dataset in ("one", "two"):
        for protocol in ("validated", "published"):
            for method, value in values.items():
                for seed in (0, 1):
                    record = make(template, method, seed, value + seed / 50, dataset=dataset,
                                  protocol=protocol)  # fmt: skip
                    if method == "iprm":
                        record = record.model_copy(
                            update={"remark": "<!-- <script></script><b>bold & wrong"}
                        )
                    name = f"{dataset}-{protocol}-{method}-{seed}.json"
                    folder = results / "records"
                    folder.mkdir(exist_ok=True)
                    (folder / name).write_text(record.model_dump_json(exclude_none=True))
    refused = make(template, "weight", 0, 0.0, dataset="one").model_copy(
        update={"status": "refused", "reason": "needs two", "final": {}}
    )
    (folder / "refused.json").write_text(refused.model_dump_json(exclude_none=True))
    built = report(results, ["naive"], "records", html=True)
    return next(f for f in built.files if f.suffix == ".html")


@pytest.fixture
def page(browser, file):
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    opened.said, opened.asked = [], []
    opened.on("console", lambda message: opened.said.append(message.text))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.goto(file.as_uri())
    yield opened
    opened.close()


def texts(page, query):
    return [t.strip() for t in page.locator(query).all_inner_texts()]


def test_page_asks_for_nothing_and_logs_nothing(page, file):
    assert [url for url in page.asked if not url.startswith("data:")] == [file.as_uri()]
    assert page.said == []
    page.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
    assert "Content Security Policy" in " ".join(page.said)


def test_text_from_records_is_shown_as_text(page):
    assert "† <!-- <script></script><b>bold & wrong." in texts(page, ".note")
    assert page.locator(".note b").count() == 0


def test_filters_leave_what_was_asked_for(page):
    everything = page.locator(".sheet:visible").count()
    page.select_option("#dataset", "one")
    page.select_option("#protocol", "published")
    left = page.locator(".sheet:visible")
    assert 0 < left.count() < everything
    assert set(left.evaluate_all("s => s.map(x => x.dataset.protocol)")) == {"published"}
    page.select_option("#metric", "MAP")
    head = [h.split()[0] for h in texts(page, ".sheet:visible >> nth=0 >> thead th:visible")]
    assert "MAP" in head
    assert "Accuracy" not in head
    page.fill("#method", "ipr")
    assert set(texts(page, ".sheet:visible tbody th:visible")) == {"iprm †"}
    page.fill("#method", "nothing like it")
    assert page.locator(".sheet:visible").count() == 0
    assert page.inner_text("#shown").startswith("0 of")


def test_a_heading_sorts_down_up_and_back(page):
    rows = "article.sheet >> nth=0 >> tbody th"
    heading = page.locator("article.sheet >> nth=0 >> thead th").nth(1)
    first = texts(page, rows)
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    down = [n for n in texts(page, rows) if not n.startswith("unimodal")]
    assert down == ["iprm †", "concat", "sum", "weight"]  # what has no number comes last
    heading.locator("button").click()
    assert [n for n in texts(page, rows) if n in ("concat", "sum")] == ["sum", "concat"]
    heading.locator("button").click()
    assert texts(page, rows) == first


def test_a_number_opens_its_records_by_keyboard(page):
    number = page.locator(".number").first
    number.focus()
    page.keyboard.press("Enter")
    assert page.locator("#records").is_visible()
    assert "seed 0: 50.00, seed 1: 52.00" in page.inner_text("#formula")
    assert page.locator("#list details").count() == 2
    page.locator("#list summary").first.click()
    shown = page.inner_text("#list")
    assert "mmbench reproduce" in shown
    assert '"batch_size"' in shown
    page.locator("#chart svg").focus()
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#chart .read").startswith("epoch 1: fused ")
    page.keyboard.press("Escape")
    assert page.locator("#records").is_hidden()


def test_curves_tell_their_values_under_the_pointer(page):
    page.locator(".number").first.click()
    box = page.locator("#chart svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + box["height"] / 2)
    last = int(page.inner_text("#chart .read").split()[1].rstrip(":"))
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert 1 < int(page.inner_text("#chart .read").split()[1].rstrip(":")) < last


def test_a_phone_scrolls_tables_and_not_the_page(page):
    page.set_viewport_size({"width": 375, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_everything_to_press_or_fill_has_a_name(page):
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select")].filter(
            x => !(x.ariaLabel || x.textContent.trim() || x.labels?.length)).length"""
    )
    assert nameless == 0
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("h1").count() == 1


def test_paper_gets_what_the_screen_shows(page):
    page.emulate_media(media="print")
    folded = page.locator("details.part")
    assert folded.count() > 0
    assert page.locator("details.part:visible").count() == 0
    assert page.locator("#filters:visible").count() == 0
    before = page.locator(".sheet:visible").count()
    folded.first.evaluate("part => { part.open = true; }")
    assert page.locator(".sheet:visible").count() > before > 0
