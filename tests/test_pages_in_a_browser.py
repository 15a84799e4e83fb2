"""The HTML pages in a real browser, opened from disk: no console message, nothing cut off, sorting and filters work."""

import shutil

import pytest
from made_results import DDIM, celebrities, celebrity_record, make_places

from vestige.bench import cli
from vestige.bench.reports import gallery, leaderboard, results
from vestige.bench.reports.render import Cell, Heading, Table, page
from vestige.bench.reports.score_table import ScoreTable

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium with its chromedriver is installed")


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def visible(browser, selector):
    return [element for element in browser.find_elements("css selector", selector) if element.is_displayed()]


def test_the_table_sorts_by_the_better_end_first_and_back(browser, places, tmp_path):
    score_table = ScoreTable(places[1])
    (tmp_path / "table.html").write_text(leaderboard.table(results.load(places[0], score_table), "html", score_table))
    browser.get(f"file://{tmp_path}/table.html")
    table = browser.find_elements("css selector", "table")[0]

    def order():
        return [row.text.split()[0] for row in table.find_elements("css selector", "tbody tr")]

    assert order() == ["original", "oracle", "good", "blunt", "idle"]
    heads = {head.text.rstrip(" ▴▾"): head for head in table.find_elements("css selector", "th button")}
    assert [head.text.rstrip(" ▴▾") for head in table.find_elements("css selector", "th button")][2:6] == [
        *("score ↑", "to oracle ↑", "erased ↑", "kept ↑"),
    ]
    heads["score ↑"].click()
    assert order()[:2] == ["oracle", "good"]
    heads["worst case ↓"].click()
    assert order()[0] == "oracle" and set(order()[-2:]) == {"original", "idle"}
    heads["worst case ↓"].click()
    assert order()[-1] == "oracle"
    heads["method"].click()
    assert order() == sorted(order())
    assert browser.get_log("browser") == []


def test_the_gallery_filters_by_method_probe_and_attack(browser, places, tmp_path):
    from selenium.webdriver.support.ui import Select

    file = gallery.write(*places, tmp_path / "pages" / "gallery.html")
    browser.get(f"file://{file}")
    choose = {box.get_attribute("name"): Select(box) for box in browser.find_elements("css selector", "select")}
    assert set(choose) == {"model", "concepts", "split", "attack", "method"} and len(visible(browser, "section")) == 6
    choose["attack"].select_by_visible_text("typos")
    assert len(visible(browser, "section")) == 2
    choose["method"].select_by_visible_text("good")
    assert [row.get_attribute("data-method") for row in visible(browser, "tr[data-method]")] == ["original", "good"] * 2
    choose["split"].select_by_visible_text("others")
    assert visible(browser, "section") == [] and len(visible(browser, "#none")) == 1, "others was never attacked"
    choose["attack"].select_by_visible_text("all")
    link = visible(browser, "a")[1].get_attribute("href")
    assert link.endswith("records/car-good.json")
    broken = browser.execute_script("return [...document.images].filter(i => i.checkVisibility() && !i.naturalWidth).length")
    assert broken == 0 and browser.get_log("browser") == []
    browser.get(link)
    assert '"method": "good"' in browser.find_element("tag name", "body").text


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """name -> an HTML file as its verb writes it."""
    folder = tmp_path_factory.mktemp("pages")
    places, papers = make_places(folder), folder / "papers"
    for method in ("original", "uce", "esd_x"):
        celebrity_record(papers, method, 0.05, concepts=celebrities(10))
        celebrity_record(papers, method, 0.07, concepts=celebrities(1), sampler={**DDIM, "steps": 20})
    verbs = {
        "table": ["table", "--composites", *here(*places)],
        "robustness": ["robustness", *here(*places)],
        "reproduce": ["reproduce", "mace_celebrity", *here(papers, places[1])],
    }
    files = {name: folder / f"{name}.html" for name in (*verbs, "gallery")}
    for name, words in verbs.items():
        assert cli.main([*words, "--format", "html", "--out", str(files[name])]) == 0
    assert cli.main(["gallery", *here(*places), "--out", str(files["gallery"])]) == 0
    return files


def here(records, store):
    return ["--records", str(records), "--store", str(store)]


# Of every column of every table, after a click on its head: are its values in order, the empty ones last, and all rows still there?
UNSORTED = """
const wrong=[];
for(const table of document.querySelectorAll("table"))[...table.tHead.rows[0].cells].forEach((head,k)=>{
  const rows=table.tBodies[0].rows.length;
  for(const times of [1,2]){
    head.querySelector("button").click();
    const values=[...table.tBodies[0].rows].map(row=>row.cells[k].dataset.v).filter(v=>v!==undefined);
    const filled=values.filter(v=>v!=="").map(Number),sign=head.ariaSort==="ascending"?1:-1;
    const inOrder=filled.every((v,i)=>!i||sign*(v-filled[i-1])>=0);
    const emptyLast=values.lastIndexOf(values.findLast(v=>v!==""))<filled.length;
    if(!inOrder||!emptyLast||rows!==table.tBodies[0].rows.length)wrong.push(head.textContent);
  }
});
return wrong"""
# Contrast of text and its background, as WCAG counts it, of what the page shows in grey and of all else.
CONTRAST = """
const linear=v=>v<=.03928?v/12.92:((v+.055)/1.055)**2.4;
const light=c=>{const[r,g,b]=c.match(/[\\d.]+/g).slice(0,3).map(v=>linear(v/255));return .2126*r+.7152*g+.0722*b};
const back=light(getComputedStyle(document.body).backgroundColor);
return Math.min(...[...document.querySelectorAll("h1,h2,p,li,td,th button,a")].map(e=>{
  const ink=light(getComputedStyle(e).color);return (Math.max(ink,back)+.05)/(Math.min(ink,back)+.05)}))"""


@pytest.mark.parametrize("name", ["table", "robustness", "reproduce", "gallery"])
def test_a_page_is_whole_on_a_screen_and_on_a_phone_by_day_and_by_night(browser, pages, name):
    for width, scheme in ((1400, "light"), (420, "dark")):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(f"file://{pages[name]}")
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), "a wide table scrolls in its own box"
        assert browser.execute_script("return document.querySelectorAll('table').length > 0")
        assert browser.execute_script("return [...document.querySelectorAll('table')].every(t => t.closest('.wide'))")
        assert browser.execute_script("return [...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))")
        assert browser.execute_script(CONTRAST) >= 4.5
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("name", ["table", "robustness", "reproduce"])
def test_every_column_sorts_both_ways_with_empty_cells_last(browser, pages, name):
    browser.get(f"file://{pages[name]}")
    assert browser.execute_script(UNSORTED) == [] and browser.get_log("browser") == []


def test_head_and_first_column_stay_in_sight_while_a_table_scrolls(browser, tmp_path):
    rows = [[f"method_{k}", *(Cell(str(k + j), k + j) for j in range(40))] for k in range(60)]
    table = Table(["method", *(f"some_long_attack_{j} ↓" for j in range(40))], rows, [f"note {k}" for k in range(20)])
    (tmp_path / "wide.html").write_text(page([Heading(1, "wide"), table]))
    browser.get(f"file://{tmp_path}/wide.html")
    corner = "const box = document.querySelector('.wide'), at = box.querySelector('th').getBoundingClientRect();"
    inside = corner + "const r = box.getBoundingClientRect(); return [at.left - r.left, at.top - r.top]"
    before = browser.execute_script(inside)
    moved = "const box = document.querySelector('.wide'); box.scrollTo(900, 900); return [box.scrollLeft, box.scrollTop]"
    assert browser.execute_script(moved) == [900, 900]
    assert browser.execute_script(inside) == before == [0, 0]
    assert len(visible(browser, "li")) < 20, "many notes are folded"
    browser.find_element("tag name", "summary").click()
    assert len(visible(browser, "li")) == 20


def test_published_numbers_that_may_not_be_compared_are_grey_and_say_why(browser, pages):
    browser.get(f"file://{pages['reproduce']}")
    grey = [cell.text for cell in browser.find_elements("css selector", "td.grey")]
    assert grey and all("¹" in text or "²" in text for text in grey)
    assert any("other sampler: theirs" in note.text for note in browser.find_elements("css selector", "li"))
    assert browser.find_element("css selector", "pre").text.startswith("vestige run -m model=sd14 protocol=mace_celebrity")
