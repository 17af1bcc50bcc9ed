"""The page in a real browser: it asks nobody for anything, complains of nothing, sorts, filters, draws, can be read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from reported_sweep import reported_sweep

from experiments.report.command import write_report
from experiments.report.entries import entries
from experiments.report.statistics import sweep_statistics

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.common.exceptions import TimeoutException  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webdriver import WebDriver  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WITHIN_S = 60
pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"),
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec, store, _ = reported_sweep(tmp_path_factory.mktemp("reported"))
    found = entries(spec, store)
    write_report(spec, store, found, sweep_statistics(spec, found), formats=["html"])
    return store.report


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"):
        options.add_argument(argument)
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


def opened(browser: WebDriver, page: Path, *, width: int = 1400, dark: bool = False) -> None:
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get("about:blank")  # the driver does not always wait for a page that is there already
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(page.as_uri())


UNDRAWN = """
return [...document.querySelectorAll('.plot')].filter((one) => !one.querySelector('.main-svg'))
  .map((one) => `${one.id}: ${one.textContent}`)
"""


def draw_all(browser: WebDriver) -> int:
    """Draws what would be drawn by scrolling; returns how many figures there are."""

    def is_drawn(driver: WebDriver) -> bool:
        """Asks each time: headless Chromium has been seen to drop an event that comes just after a page was loaded."""
        driver.execute_script("window.dispatchEvent(new Event('beforeprint'))")
        return not driver.execute_script(UNDRAWN)

    try:
        WebDriverWait(browser, WITHIN_S).until(is_drawn)
    except TimeoutException:
        pytest.fail(f"not drawn: {browser.execute_script(UNDRAWN)}; console: {browser.get_log('browser')}")
    return len(browser.find_elements(By.CLASS_NAME, "plot"))


def first_column(browser: WebDriver, table: str = "table-leaderboard") -> list[str]:
    script = (
        "return [...document.querySelectorAll('#' + arguments[0] + ' tbody tr')]"
        ".filter((row) => !row.hidden).map((row) => row.cells[0].textContent)"
    )
    return list(browser.execute_script(script, table))


@pytest.mark.parametrize("dark", [False, True])
def test_it_draws_everything_and_complains_of_nothing(browser: WebDriver, page: Path, dark: bool) -> None:
    opened(browser, page, dark=dark)
    assert draw_all(browser) == 6
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "DEBUG"] == []
    assert browser.execute_script("return window.hacked") is None
    assert "7 * 7" in browser.find_element(By.TAG_NAME, "h1").text


def test_it_asks_nobody_for_anything(browser: WebDriver, page: Path) -> None:
    opened(browser, page)
    draw_all(browser)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    assert asked, "the page itself"
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
    assert [url for url in asked if url.startswith("file:")] == [page.as_uri()]


def test_columns_sort_by_number_and_back(browser: WebDriver, page: Path) -> None:
    opened(browser, page)
    head = browser.find_element(By.CSS_SELECTOR, "#table-leaderboard th button")
    head.click()
    assert first_column(browser) == [str(number) for number in range(27)]
    head.click()
    assert first_column(browser) == [str(number) for number in reversed(range(27))]
    cell = browser.find_element(By.CSS_SELECTOR, "#table-leaderboard th")
    assert cell.get_attribute("aria-sort") == "descending"


def test_what_has_no_value_comes_last_both_ways(browser: WebDriver, page: Path) -> None:
    opened(browser, page)
    head = browser.find_element(By.XPATH, "//table[@id='table-leaderboard']//button[text()='ap50_11pt']")
    for _ in range(2):
        head.click()
        assert first_column(browser)[-1] == "4", "which failed"


def test_rows_are_filtered(browser: WebDriver, page: Path) -> None:
    opened(browser, page)
    field = browser.find_element(By.CSS_SELECTOR, "input[data-filters=table-leaderboard]")
    field.send_keys("fail ERROR")
    assert first_column(browser) == ["4"]
    assert browser.find_element(By.CSS_SELECTOR, "output[data-counts=table-leaderboard]").text == "1 of 27 rows"
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(Keys.DELETE)
    assert len(first_column(browser)) == 27


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_window(browser: WebDriver, page: Path, width: int, dark: bool) -> None:
    """Tables scroll in their own boxes; the page does not scroll sideways."""
    opened(browser, page, width=width, dark=dark)
    draw_all(browser)
    needed, there = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert needed == there > width - 20, "less its scroll bar"


CONTRASTS = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgb = (colour, under) => {
  canvas.fillStyle = `rgb(${under})`; canvas.fillRect(0, 0, 1, 1);
  canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const light = (colour) => colour.map((value) => value / 255)
  .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
  .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
const paper = rgb(getComputedStyle(document.body).backgroundColor, [255, 255, 255]);
return [...document.querySelectorAll('td, th, p, a, dt, dd, summary, code, caption')].slice(0, 3000)
  .filter((one) => one.checkVisibility()).map((one) => {
    const style = getComputedStyle(one);
    const under = rgb(style.backgroundColor, paper);
    const [high, low] = [light(rgb(style.color, under)), light(under)].sort((a, b) => b - a);
    return [(high + 0.05) / (low + 0.05), one.tagName, one.className, one.textContent.slice(0, 30)];
  }).sort((a, b) => a[0] - b[0])[0];
"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_told_from_what_is_behind_it(browser: WebDriver, page: Path, dark: bool) -> None:
    """At least 4.5 to 1. Source: WCAG 2.2, success criterion 1.4.3."""
    opened(browser, page, dark=dark)
    worst = browser.execute_script(CONTRASTS)
    assert worst[0] >= 4.5, worst


def test_it_can_be_used_with_the_keyboard(browser: WebDriver, page: Path) -> None:
    opened(browser, page)
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the answer"
    reached = set()
    for _ in range(60):
        active = browser.switch_to.active_element
        reached.add(f"{active.tag_name} {active.get_attribute('data-filters') or active.get_attribute('class') or ''}")
        active.send_keys(Keys.TAB)
    assert {"input table-leaderboard", "div scroll", "button ", "pre command"} <= reached
    head = browser.find_element(By.CSS_SELECTOR, "#table-leaderboard th button")
    browser.execute_script("arguments[0].focus()", head)
    head.send_keys(Keys.ENTER)
    assert first_column(browser)[0] == "0"
    summary = browser.find_element(By.CSS_SELECTOR, "figure summary")
    browser.execute_script("arguments[0].focus()", summary)
    summary.send_keys(Keys.ENTER)
    assert browser.find_element(By.CSS_SELECTOR, "figure details table").is_displayed()


def test_every_part_has_a_name_for_those_who_do_not_see_it(browser: WebDriver, page: Path) -> None:
    opened(browser, page)
    nameless = (
        "return [...document.querySelectorAll('[role=img], [role=region], img, nav, section')]"
        ".filter((one) => !(one.getAttribute('aria-label') || one.getAttribute('aria-labelledby') || one.alt)).length"
    )
    assert browser.execute_script(nameless) == 0
    assert browser.execute_script("return document.documentElement.lang") == "en"
