"""The site's pages: a new method, command or metric shows by itself; nothing is only shown; numbers are those measured.

That the pages build, and that every block on them runs, is shown by `make docs`.
"""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "generated" not in path.parts)
FIGURES = yaml.safe_load((DOCS / "methods" / "figures.yaml").read_text())


def test_every_method_has_a_page_with_its_settings_and_presets(extension):
    from cellalign.methods import registry

    pages = extension("site_pages").methods()
    for name, info in registry.available().items():
        page = pages[f"methods/{name.replace('+', '-plus')}"]
        assert f"[{name}](" in pages["methods/index"]
        for setting in registry.get(name).Hyperparameters.model_fields:
            assert f"| `{setting}` |" in page, (name, setting)
        assert all(f"`{preset}`" in page for preset in info.presets)


def test_every_method_of_this_package_has_its_equation_and_when_to_take_it():
    from cellalign.methods.registry import BUILT_IN

    for name in BUILT_IN:
        text = (DOCS / "methods" / f"{name.replace('+', '-plus')}.md").read_text()
        assert text.count("$$") >= 2 and "## Equation" in text and "## When" in text, name
    assert {path.stem.replace("-plus", "+") for path in (DOCS / "methods").glob("*.md")} == set(BUILT_IN)


def test_a_method_that_somebody_adds_shows_by_itself(extension, monkeypatch):
    from cellalign.methods import registry

    monkeypatch.setitem(registry.BUILT_IN, "new", registry.BUILT_IN["pca"])
    cached = [each for each in vars(registry).values() if hasattr(each, "cache_clear")]
    for each in cached:
        each.cache_clear()
    try:
        pages = extension("site_pages").methods()
    finally:
        monkeypatch.undo()
        for each in cached:
            each.cache_clear()
    assert "| `latent_dim` |" in pages["methods/new"] and "[new](new.md)" in pages["methods/index"]


def test_every_command_has_a_page_with_all_of_its_options(extension):
    import cellalign.cli.app  # noqa: F401  declares the commands
    from cellalign.tasks.declaration import DECLARATIONS

    made = extension("site_pages")
    pages = made.commands()
    for name, declared in DECLARATIONS.items():
        page = pages[f"cli/{name.replace(' ', '-')}"]
        for each in [*declared.own(), *declared.options()]:
            assert f"| {made.spelled(each)} |" in page and made.plain(each.option.help) in page, (name, each)
        assert declared.example in page and f"[{name}](" in pages["cli/index"]


def test_text_of_the_code_is_shown_letter_by_letter(extension):
    made = extension("site_pages")
    assert made.prose("p(z | x) of a_b, by `nn.rotation`") == r"p(z \| x) of a\_b, by `nn.rotation`"
    assert made.table(["a"], [[made.code("x|y")]]) == "| a |\n| --- |\n| `x\\|y` |\n"


def test_every_metric_has_a_line_with_its_direction_and_null(extension):
    from cellalign.evaluation.catalogue import catalogue

    pages = extension("site_pages")
    page = pages.metrics()["metrics"]
    for _, metric in catalogue():
        line = f"| `{metric.name}` | {metric.better} | {pages.plain(metric.meaning)} | {pages.plain(metric.null)} |"
        assert line in page, metric.name


def test_everything_that_python_is_offered_is_in_the_reference(extension):
    import cellalign

    page = extension("site_pages").api()["api"]
    assert not [name for name in cellalign.__all__ if f"cellalign.{name}" not in page]
    named = re.findall(r"^.. auto(?:function|class):: (\S+)$", page, re.MULTILINE)
    assert len(named) == len(set(named)) and {"cellalign.train", "cellalign.simulate.ifnb"} <= set(named)
    assert not [name for name in named if name.endswith(("_command", ".option", ".command_of"))]


@pytest.mark.parametrize("method", FIGURES)
def test_figures_beside_published_ones_are_those_that_were_measured(method):
    """Each number stands in the section of benchmarks/README.md that the row names."""
    text = (ROOT / "benchmarks" / "README.md").read_text()
    sections = {part.partition("\n")[0]: part for part in re.split(r"^#+ ", text, flags=re.MULTILINE)}
    for row in FIGURES[method]:
        for number in re.findall(r"\d\.\d+", row["ours"] + " " + row["published"]):
            assert number in sections[row["where"]], (row, number)


def test_no_block_of_commands_or_python_is_only_shown(extension):
    shown = extension("site_execution").ONLY_SHOWN
    assert shown.search("text\n\n```sh\ncellalign embed\n```\n") and not shown.search("```{code-cell}\nls\n```\n")
    for page in PAGES:
        assert not shown.search(page.read_text()), page


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http:", "https:")) and "generated/" not in target:
            assert (page.parent / target).exists(), target


def test_the_kernel_of_shell_blocks_stops_at_the_first_failure(extension, tmp_path):
    run = extension("shell_kernel").run
    assert run("echo one; echo two >&2", str(tmp_path)) == ("one\ntwo\n", "")
    output, wrong = run("echo before\nfalse\necho after", str(tmp_path))
    assert output == "before\n" and wrong.startswith("status 1, not 0")
    assert run("false | true", str(tmp_path))[1].startswith("status 1, not 0")
    assert run("# status 3\nexit 3", str(tmp_path)) == ("", "")
    assert run("# status 3\ntrue", str(tmp_path))[1].startswith("status 0, not 3")


def test_a_row_of_python_versions_takes_the_place_of_the_former_one():
    spec = importlib.util.spec_from_file_location("newest", ROOT / ".ci" / "newest.py")
    newest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(newest)
    row = dict.fromkeys(newest.COLUMNS, "1") | {"Python": "3.13.0"}
    page = newest.written("", row)
    page = newest.written(page, row | {"Python": "3.12.1"})
    page = newest.written(page, row | {"Python": "3.13.2", "unit tests": "9 passed"})
    rows = [line for line in page.splitlines() if line.startswith("| 3")]
    assert [line.split(" | ")[0] for line in rows] == ["| 3.12.1", "| 3.13.2"] and "9 passed" in rows[1]


def test_the_map_of_the_code_names_the_large_files_and_none_that_is_not_there():
    text = (DOCS / "architecture.md").read_text()
    there = {path.name: path for path in (ROOT / "cellalign").rglob("*.py")}
    named = {name.rsplit("/", 1)[-1] for name in re.findall(r"`([\w/]+\.py)`", text)}
    of_the_tests = {path.name for path in (ROOT / "tests").rglob("*.py")}
    assert named - set(there) - of_the_tests <= {"NAME.py", "KIND.py"}
    verbs = {path.stem for path in (ROOT / "cellalign" / "tasks").glob("*.py")}
    for path in there.values():
        lines = path.read_text(encoding="utf-8").count("\n")
        own_room = path.parent.name in ("methods", "panels", "fields", "kernels", "records") or path.stem in verbs
        if lines > 300 and path.name != "__init__.py" and not own_room:
            assert path.name in text, path
