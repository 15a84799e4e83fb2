"""The HTML pages in a real browser, opened from disk: no console message, sorting and filters work."""

import shutil

import pytest

from bench import gallery, report, results
from bench.pictures import Pictures

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
    pictures = Pictures(places[1])
    (tmp_path / "table.html").write_text(report.table(results.load(places[0], pictures), "html", pictures))
    browser.get(f"file://{tmp_path}/table.html")
    table = browser.find_elements("css selector", "table")[0]

    def order():
        return [row.text.split()[0] for row in table.find_elements("css selector", "tbody tr")]

    assert order() == ["original", "oracle", "good", "blunt", "idle"]
    heads = {head.text.rstrip(" ▴▾"): head for head in table.find_elements("css selector", "th button")}
    heads["net ↑"].click()
    assert order()[:2] == ["oracle", "good"]
    heads["target ↓"].click()
    assert order()[0] == "oracle" and set(order()[-2:]) == {"original", "idle"}
    heads["target ↓"].click()
    assert order()[-1] == "oracle"
    heads["method"].click()
    assert order() == sorted(order())
    assert browser.get_log("browser") == []


def test_the_gallery_filters_by_method_probe_and_attack(browser, places, tmp_path):
    from selenium.webdriver.support.ui import Select

    page = gallery.write(*places, tmp_path / "pages" / "gallery.html")
    browser.get(f"file://{page}")
    choose = {box.get_attribute("name"): Select(box) for box in browser.find_elements("css selector", "select")}
    assert set(choose) == {"model", "concepts", "probe", "attack", "method"} and len(visible(browser, "section")) == 6
    choose["attack"].select_by_visible_text("typos")
    assert len(visible(browser, "section")) == 2
    choose["method"].select_by_visible_text("good")
    assert [row.get_attribute("data-method") for row in visible(browser, "tr[data-method]")] == ["original", "good"] * 2
    choose["probe"].select_by_visible_text("others")
    assert visible(browser, "section") == [] and len(visible(browser, "#none")) == 1, "others was never attacked"
    choose["attack"].select_by_visible_text("all")
    link = visible(browser, "a")[1].get_attribute("href")
    assert link.endswith("records/car-good.json")
    broken = browser.execute_script("return [...document.images].filter(i => i.checkVisibility() && !i.naturalWidth).length")
    assert broken == 0 and browser.get_log("browser") == []
    browser.get(link)
    assert '"method": "good"' in browser.find_element("tag name", "body").text
