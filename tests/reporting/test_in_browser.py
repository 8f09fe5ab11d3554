"""The page as a reader has it: in headless Chromium, with a mouse, on a phone, and printed.

Selenium drives Debian's chromium with its chromium-driver; nothing is downloaded. Where either is missing the tests are
skipped, or fail where CELLALIGN_REQUIRE_BROWSER is set. CELLALIGN_CHROMIUM and CELLALIGN_CHROMEDRIVER name others.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import time

import pytest
import reported

from cellalign.reporting import build

pytestmark = pytest.mark.slow
PHONE = 390


def _missing(what: str) -> None:
    message = f"{what} is not installed; apt-get install chromium chromium-driver, pip install selenium"
    if os.environ.get("CELLALIGN_REQUIRE_BROWSER"):
        pytest.fail(message)
    pytest.skip(message)


def _found(variable: str, *names: str) -> str:
    path = os.environ.get(variable) or next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        _missing(names[0])
    return str(path)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium that keeps what it logs and asks for."""
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.options import Options
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        _missing("selenium")
    chromium = _found("CELLALIGN_CHROMIUM", "chromium", "chromium-browser", "google-chrome")
    service = Service(_found("CELLALIGN_CHROMEDRIVER", "chromedriver"))
    options = Options()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A report of everything, of 20,000 cells."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(build(reported.everything(20_000)).html(), encoding="utf-8")
    return path


def opened(browser, file, width: int = 1280):
    """The page at some width, once all is drawn."""
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(file.as_uri())
    until(browser, "return document.documentElement.dataset.ready === 'true'")
    return browser


def until(browser, script: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not browser.execute_script(script):
        assert time.monotonic() < end, script
        time.sleep(0.1)


def ink(browser, index: int = 0) -> dict[str, int]:
    """How many pixels of a map of cells have each of the colours, and how many any."""
    return browser.execute_script(
        """
        const canvas = document.querySelectorAll("canvas")[arguments[0]];
        const bytes = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const found = {};
        for (let i = 0; i < bytes.length; i += 4) {
          const key = [bytes[i], bytes[i + 1], bytes[i + 2]].join();
          found[key] = (found[key] || 0) + 1;
        }
        return found;
        """,
        index,
    )


BLUE, ORANGE, WHITE = "0,114,178", "230,159,0", "255,255,255"


def test_all_is_drawn_and_nothing_is_asked_of_a_network(browser, file):
    opened(browser, file)
    charts = browser.find_elements("css selector", "figure .main-svg")
    figures = browser.find_elements("css selector", "figure[data-picture]")
    assert len(figures) >= 8 and len(charts) >= len(figures) - 1
    for figure in figures:
        assert figure.find_element("css selector", ".picture").size["height"] > 100
    for i in (0, 1):
        drawn = ink(browser, i)
        assert drawn[BLUE] > 500 and drawn[ORANGE] > 500
    told = [each for each in browser.get_log("browser") if each["level"] in ("SEVERE", "WARNING")]
    assert not told
    asked = [json.loads(each["message"])["message"] for each in browser.get_log("performance")]
    urls = {each["params"]["request"]["url"] for each in asked if each["method"] == "Network.requestWillBeSent"}
    assert all(url.startswith(("file:", "data:", "blob:")) for url in urls) and urls


def test_names_that_are_markup_do_nothing(browser, file):
    opened(browser, file)
    assert browser.execute_script("return document.querySelectorAll('img, b').length") == 0
    assert reported.EVIL in browser.find_element("css selector", "main").text


def test_a_name_in_the_legend_hides_its_cells(browser, file):
    opened(browser, file)
    before = ink(browser)
    buttons = browser.find_elements("css selector", ".names button[aria-pressed]")
    assert [button.text.split()[0] for button in buttons] == ["control", "stimulated"]
    buttons[0].click()
    hidden = ink(browser)
    assert hidden.get(BLUE, 0) == 0 and hidden[ORANGE] > before[ORANGE]
    assert buttons[0].get_attribute("aria-pressed") == "false"
    buttons[0].click()
    assert ink(browser)[BLUE] == before[BLUE]


def test_cells_are_coloured_by_any_column(browser, file):
    from selenium.webdriver.support.ui import Select

    opened(browser, file)
    select = browser.find_element("css selector", "figure:has(canvas) select")
    names = [each.text for each in Select(select).options]
    assert names == ["stim", "cell_type", "n_counts", "many"]
    first = ink(browser)
    Select(select).select_by_visible_text("cell_type")
    labels = [each.text for each in browser.find_elements("css selector", ".names button[aria-pressed]")]
    assert any(reported.EVIL in label for label in labels) and any("no value" in label for label in labels)
    assert ink(browser) != first
    Select(select).select_by_visible_text("n_counts")
    assert browser.find_elements("css selector", ".scale") and not browser.find_elements("css selector", ".names")


def test_pointing_at_a_cell_says_what_it_is(browser, file):
    from selenium.webdriver.common.action_chains import ActionChains

    opened(browser, file)
    canvas = browser.find_element("css selector", "canvas")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", canvas)
    size = canvas.size["width"]
    tip = browser.find_element("css selector", ".tip")
    chain = ActionChains(browser)
    for share in (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2):  # where many cells lie is not known beforehand
        chain.move_to_element_with_offset(canvas, int(share * size), int(-share * size)).perform()
        if tip.is_displayed():
            break
    assert tip.text.splitlines()[0].startswith("stim: ") and "cell_type: " in tip.text


def test_a_group_is_chosen(browser, file):
    from selenium.webdriver.support.ui import Select

    opened(browser, file)
    figure = next(
        each
        for each in browser.find_elements("css selector", "#response figure")
        if each.find_elements("css selector", "select")
    )
    before = figure.find_element("css selector", ".main-svg").get_attribute("innerHTML")
    select = Select(figure.find_element("css selector", "select"))
    assert len(select.options) == 2
    select.select_by_index(1)
    until(browser, "return true")
    assert figure.find_element("css selector", ".main-svg").get_attribute("innerHTML") != before


def test_no_button_sends_the_data_away(browser, file):
    opened(browser, file)
    titles = browser.execute_script(
        "return Array.from(document.querySelectorAll('.modebar-btn'), (each) => each.dataset.title || '')"
    )
    assert titles and not any(
        word in title.lower() for title in titles for word in ("cloud", "edit", "share", "studio")
    )


def test_it_is_readable_on_a_phone(browser, file):
    opened(browser, file, PHONE)
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= PHONE, "nothing reaches beyond the screen"
    small = browser.execute_script(
        """
        return Array.from(document.querySelectorAll("p, li, td, th, h1, h2, button, select, figcaption"))
          .filter((each) => each.textContent.trim() && parseFloat(getComputedStyle(each).fontSize) < 11)
          .map((each) => each.textContent.slice(0, 40));
        """
    )
    assert not small
    for chart in browser.find_elements("css selector", "figure .main-svg"):
        assert chart.size["width"] <= PHONE
    first, second = browser.find_elements("css selector", "canvas")[:2]
    assert second.location["y"] > first.location["y"] + 200, "one below the other"


def test_it_is_printed_whole(browser, file):
    opened(browser, file)
    made = browser.execute_cdp_cmd(
        "Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True}
    )
    pdf = base64.b64decode(made["data"])
    assert pdf.startswith(b"%PDF") and 4 <= pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") <= 40
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        hidden = browser.execute_script("return getComputedStyle(document.querySelector('nav')).display")
        assert hidden == "none", "what is only for a screen is not printed"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
