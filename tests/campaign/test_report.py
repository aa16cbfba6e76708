"""The report of a run whose truth is known: its conclusions, figures, numbers and page."""

import argparse
import csv
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multispin.campaign import report_command
from multispin.campaign.conclusions import Section, conclusions
from multispin.campaign.drawings import by_setting, crossover, pareto, round_parts
from multispin.campaign.drawings.drawing import energy_words
from multispin.campaign.effects import ALL, EffectRow, effects
from multispin.campaign.measured import Measured, measure
from multispin.campaign.metrics import METRICS
from multispin.campaign.report_page import report_page
from multispin.campaign.report_tables import tables_of
from multispin.campaign.rules import check_run
from multispin.campaign.rules.evidence import Thresholds
from multispin_models.errors import ConfigError
from tests.campaign.good_run import SPEED, make_run, reseal, some_cell
from tests.campaign.test_verify import exclude
from tests.coordinator.page.test_browser import AXE, CHROMIUM, FLAGS, JUDGED, PHONE

NAMES = ("effects", "crossover", "ttft", "tpot", "e2e", "goodput_tokens", "energy_j_per_token", "pareto", "thermal")
NAMES = (*NAMES, "backhaul_bytes_per_token", "round-parts", "acceptance")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("told") / "run", users=(1, 2), label="replayed")


@pytest.fixture(scope="module")
def measured(run: Path) -> Measured:
    return measure(run)


@pytest.fixture(scope="module")
def found(measured: Measured) -> list[EffectRow]:
    return effects(measured)


def test_nothing_is_written_into_the_folder_that_is_signed(run: Path) -> None:
    parser = argparse.ArgumentParser()
    report_command.add_arguments(parser)
    for out in (run, run / "report"):
        with pytest.raises(ConfigError, match="lies in the folder of the run"):
            report_command.run(parser.parse_args([str(run), "--out", str(out)]))


@pytest.fixture(scope="module")
def report(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    parser = argparse.ArgumentParser()
    report_command.add_arguments(parser)
    assert report_command.run(parser.parse_args([str(run), "--out", str(out)])) == 0
    return out


def said(sections: list[Section], title: str) -> str:
    return " ".join(sentence for section in sections if section.title == title for sentence in section.sentences)


def overall(found: list[EffectRow], arm: str, rival: str, metric: str) -> EffectRow:
    [row] = [
        row
        for row in found
        if (row.arm, row.rival, row.metric.name, row.setting, row.device) == (arm, rival, metric, ALL, "")
    ]
    return row


def test_figures_of_a_cell_follow_from_its_requests(measured: Measured) -> None:
    assert len(measured.cells) == 5 * 5 * 2
    for each in measured.cells:
        assert each.tokens == 12 * each.requests
        assert each.goodput_tokens_per_s == pytest.approx(each.tokens / (each.e2e_s or 0.0), rel=1e-6)
        assert each.energy_label == "replayed"
        assert each.energy_j_per_token == pytest.approx(5.0 * (each.e2e_s or 0.0) / each.tokens, rel=1e-6)
        assert each.idle_w == pytest.approx(2.0)


def test_effects_are_those_that_were_put_in(found: list[EffectRow]) -> None:
    row = overall(found, "price", "single node", "tpot_s")
    truth = SPEED["price"] / SPEED["single node"]
    assert row.effect.estimate == pytest.approx(truth, rel=0.05)
    assert row.verdict == "better"
    assert overall(found, "fixed", "single node", "tpot_s").verdict == "worse"
    assert overall(found, "fixed", "single node", "goodput_tokens_per_s").verdict == "worse"
    assert overall(found, "price", "target alone", "backhaul_bytes_per_token").verdict == "no difference found"
    less = overall(found, "draft alone", "target alone", "backhaul_bytes_per_token").effect
    assert (less.scale, less.estimate) == ("difference", pytest.approx(-70.0))


def test_each_setting_is_compared_with_the_rivals_cell_of_its_levels(found: list[EffectRow]) -> None:
    rows = [row for row in found if (row.arm, row.rival, row.metric.name) == ("price", "single node", "tpot_s")]
    assert {row.setting for row in rows} == {ALL, "users 1", "users 2"}
    assert all(row.effect.num_blocks == 5 for row in rows)


def test_parts_of_a_round_are_told_by_round_and_by_token(measured: Measured) -> None:
    table = round_parts(measured).table
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["arm"] for row in rows] == ["price", "fixed"]
    for row in rows:
        assert row["sum, ms"] == pytest.approx(
            sum(row[f"{name}, ms"] for name in ("draft", "verify", "uplink")) + 6.5, 1e-3
        )
        assert row["sum, ms a token"] == pytest.approx(row["sum, ms"] / row["tokens a round"])


def test_conclusions_say_where_cooperation_wins_and_where_it_loses(measured: Measured, found: list[EffectRow]) -> None:
    told = conclusions(measured, found)
    assert "cooperation is faster: price against target alone" in said(told, "What was asked")
    assert ": shown. " in said(told, "What was asked")
    assert "price against single node, Time per output token (TPOT)" in said(told, "Where cooperation wins")
    assert "fixed against single node, Time per output token (TPOT)" in said(told, "Where cooperation loses")
    assert "fixed against target alone, Goodput" in said(told, "Where cooperation loses")
    assert "1.50 nats a token" in said(told, "The draft model alone")


def test_no_conclusion_rests_on_joules_that_no_sensor_saw(measured: Measured, found: list[EffectRow]) -> None:
    told = conclusions(measured, found)
    assert "REPLAYED" in said(told, "Energy")
    assert "nothing is concluded about joules" in said(told, "Energy")
    for title in ("Where cooperation wins", "Where cooperation loses", "In short"):
        assert "Energy" not in said(told, title)


def test_several_devices_are_strata_and_each_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", blocks=4, devices=("bench", "field"))
    assert {fault.rule for fault in check_run(run, Thresholds(min_blocks=4)).faults} == set()
    measured = measure(run)
    found = effects(measured)
    effect = overall(found, "price", "target alone", "tpot_s").effect
    assert (effect.num_blocks, effect.num_devices) == (8, 2)
    own = [row for row in found if (row.arm, row.rival, row.metric.name) == ("price", "target alone", "tpot_s")]
    by_device = {row.device: row.effect.reason for row in own if row.device}
    assert by_device == dict.fromkeys(("bench", "field"), "4 device-blocks, 5 are needed")
    assert by_setting(measured, METRICS[1]).table.rows[0][-1] == 8
    assert crossover(measured).svg == b"", "nothing varies"


def test_arms_that_do_not_differ_give_no_winner(tmp_path: Path) -> None:
    alike = make_run(tmp_path / "run", speed=dict.fromkeys(SPEED, 1.0))
    measured = measure(alike)
    found = effects(measured)
    told = conclusions(measured, found)
    assert overall(found, "price", "target alone", "tpot_s").verdict == "no difference found"
    assert "not shown: no difference was found" in said(told, "What was asked")
    assert "In none of" in said(told, "Where cooperation wins")
    assert "In none of" in said(told, "Where cooperation loses")


def test_every_figure_has_files_a_caption_with_n_and_numbers(report: Path) -> None:
    page = (report / "index.html").read_text(encoding="utf-8")
    for name in NAMES:
        svg = (report / f"{name}.svg").read_text(encoding="utf-8")
        assert "prefers-color-scheme:dark" in svg
        assert "<script" not in svg
        assert (report / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        with (report / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            assert len(list(csv.reader(file))) > 1, name
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert len(captions) == len(NAMES)
    assert all("n = " in caption for caption in captions), captions
    assert len(re.findall(r'<img alt="[^"]{20,}"', page)) == len(NAMES)


def test_energy_that_is_replayed_is_called_so_on_every_figure_that_has_it(report: Path) -> None:
    for name in ("energy_j_per_token", "pareto", "effects"):
        assert "replayed" in (report / f"{name}.svg").read_text(encoding="utf-8")
    page = (report / "index.html").read_text(encoding="utf-8")
    figures = re.findall(r"<h3>([^<]*)</h3>\n<figure>.*?<figcaption>(.*?)</figcaption>", page, flags=re.DOTALL)
    with_energy = [(title, caption) for title, caption in figures if "nergy" in title or "joules" in caption]
    assert len(with_energy) >= 3
    assert all("REPLAYED" in caption for _, caption in with_energy)


def test_the_page_names_no_other_host_and_runs_nothing(report: Path) -> None:
    page = (report / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href|action)="(?!data:)', page) == []
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page


def test_what_was_left_out_is_told_and_a_run_that_does_not_count_says_so(run: Path, tmp_path: Path) -> None:
    path = shutil.copytree(run, tmp_path / "run")
    cell = some_cell(path, "price")
    exclude(path, cell.cell_id, "it throttled <b>")
    reseal(path)
    verdict = check_run(path, Thresholds())
    assert [fault.rule for fault in verdict.faults] == [601], "four blocks of that setting are left"
    measured = measure(path)
    [(title, table)] = [(title, table) for name, title, table in tables_of(measured, [], verdict) if name == "excluded"]
    assert table.rows == [(cell.cell_id, "excluded", "it throttled <b>")]
    text = report_page(measured, [], [], [(title, table)], verdict)
    assert "This run does not count: 1 fault" in text
    assert f"<td>{cell.cell_id}</td><td>excluded</td><td>it throttled &lt;b&gt;</td>" in text


def test_joules_of_different_labels_are_never_drawn_or_compared_together(measured: Measured) -> None:
    import msgspec  # noqa: PLC0415

    cells = [
        msgspec.structs.replace(each, energy_label="measured" if each.cell.arm == "price" else "modelled")
        for each in measured.cells
    ]
    mixed = measured._replace(cells=cells)
    for drawing in (by_setting(mixed, METRICS[4]), pareto(mixed)):
        assert drawing.svg == b""
        assert "different labels are not drawn together" in drawing.caption
    rows = [row for row in effects(mixed) if row.metric.name == "energy_j_per_token" and row.arm == "price"]
    assert rows == []


def test_a_run_without_joules_says_why(measured: Measured) -> None:
    import msgspec  # noqa: PLC0415

    nothing = {"energy_j_per_token": None, "energy_label": None, "energy_reason": "no meter"}
    cells = [msgspec.structs.replace(each, **nothing) for each in measured.cells]
    assert energy_words(measured._replace(cells=cells)) == ("not known", "No joules: no meter.")


@pytest.fixture
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - not where there is no browser

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: sudo apt install chromium (scripts/test-tools)")
@pytest.mark.skipif(AXE is None, reason="no axe-core in .venv: scripts/test-tools brings it where npm is")
def test_in_a_browser_it_fits_a_phone_and_is_accessible_in_light_and_dark(browser: Any, report: Path) -> None:
    page, faults, grounds, asked = browser.new_page(viewport=PHONE), [], set(), set()
    page.on("console", lambda told: faults.append(told.text) if told.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: asked.add(request.url.partition(":")[0]))
    page.goto((report / "index.html").as_uri())
    assert AXE is not None
    page.evaluate(AXE.read_text(encoding="utf-8"))
    assert page.evaluate("[...document.images].every((each) => each.complete && each.naturalWidth > 100)")
    for width, scheme in ((PHONE["width"], "dark"), (1100, "light")):
        page.set_viewport_size({"width": width, "height": 740})
        page.emulate_media(color_scheme=scheme)
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        passed, found = page.evaluate(JUDGED)
        assert found == [], (width, scheme)
        assert passed > 10, "rules were applied"
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert len(grounds) == 2
    assert faults == []
    assert asked <= {"file", "data"}
