"""The README and the manual agree with the code, and their links lead somewhere."""

import re
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from kafka_http.app import create_app
from kafka_http.config.sources import load_config
from tests.support.fake_broker import FakeBroker
from tests.support.manual import (
    ACTIVATE,
    MANUAL,
    README,
    README_FILE,
    ROOT,
    page,
    page_files,
    section,
    shell_commands,
    table,
)

DOCUMENTS = [README_FILE, *page_files()]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
NEEDS_ENVIRONMENT = re.compile(r"(?<![\w/.-])(kafka-http|pip|pytest|python|flask|gunicorn)(?= )")
"""Programs that a shell finds only in the active virtual environment, as words of a command."""


def test_every_route_is_listed_in_the_manual() -> None:
    app = create_app(load_config({"console": True}, environ={}), FakeBroker())
    calls = {
        f"`{method} {rule.rule}`"
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in {"HEAD", "OPTIONS"}
    }
    assert {call for call, _ in table(page("index"), "## Calls")} == calls


def test_readme_has_at_most_200_lines_of_120_characters() -> None:
    lines = README.splitlines()
    assert len(lines) <= 200
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize(
    "command", ["'.[demo]' && .venv/bin/kafka-http demo", "'.[test]' && .venv/bin/python -m pytest"]
)
def test_readme_has_one_command_for_the_demo_and_one_for_the_tests(command: str) -> None:
    found = [each for each in shell_commands(README) if each.endswith(command)]
    assert len(found) == 1
    assert found[0].startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert "\n" not in found[0]


def commands() -> Iterator[tuple[str, bool]]:
    """Each command and each text in backquotes of the README and then the pages, and whether the command that
    activates the virtual environment came before it.
    """
    active = False
    for path in DOCUMENTS:
        text = path.read_text()
        blocks = iter(FENCED.findall(text))
        for line in FENCED.sub("```", text).splitlines():
            found = shell_commands(next(blocks)) if line == "```" else re.findall(r"`([^`]+)`", line)
            for command in found:
                active = active or command == ACTIVATE
                yield command, active


def test_documented_commands_activate_or_name_the_environment() -> None:
    found = [(command, active) for command, active in commands() if NEEDS_ENVIRONMENT.search(command)]
    assert len(found) > 20
    assert [command for command, active in found if not active] == []


def test_readme_lesson_activates_the_environment() -> None:
    lesson = section(README, "## A lesson: Kafka in six steps")
    assert shell_commands(lesson)[:2] == [ACTIVATE, "kafka-http demo --topic rides:3"]


def test_documented_pip_installs_use_the_source_directory_and_existing_extras() -> None:
    """The distribution is on no package index."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    sources = [path.read_text() for path in [*DOCUMENTS, *(ROOT / "kafka_http").rglob("*.py")]]
    named = [each for text in sources for each in re.findall(r"pip install (?:-e )?'([^']+)'", text)]
    named += [f".[{each}]" for text in sources for each in re.findall(r"how_to_install\(['\"](\w+)", text)]
    ours = {each for each in named if each.startswith(".[") and "{" not in each}
    assert not [each for each in named if "kafka" in each]
    assert len(ours) >= 5
    assert {extra for each in ours for extra in re.findall(r"\w+", each)} <= set(config["options.extras_require"])


def headings(text: str, levels: str = "#{1,6}") -> list[str]:
    return re.findall(rf"^{levels} (.+)$", FENCED.sub("", text), re.MULTILINE)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(text: str) -> list[str]:
    """The targets of the links to other files of the project and to headings, code left out."""
    prose = re.sub(r"`[^`]*`", "", FENCED.sub("", text))
    return [each for each in re.findall(r"\]\(([^)\s]+)\)", prose) if not re.match("[a-z]+:", each)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_point_to_existing_files_and_headings(path: Path) -> None:
    broken = []
    for link in links(path.read_text()):
        file, _, fragment = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        is_there = target.is_relative_to(ROOT) and target.is_file()
        if not is_there or (fragment and fragment not in map(anchor, headings(target.read_text()))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", page_files(), ids=lambda path: path.name)
def test_manual_pages_link_only_inside_the_manual(path: Path) -> None:
    """The server shows the pages at /docs, and a wheel has no other files."""
    targets = [(MANUAL / link.partition("#")[0]).resolve() for link in links(path.read_text())]
    assert [each.name for each in targets if not each.is_relative_to(MANUAL)] == []


@pytest.mark.parametrize("path", page_files(), ids=lambda path: path.name)
def test_manual_pages_have_a_table_of_contents(path: Path) -> None:
    text = path.read_text()
    title, *_ = headings(text)
    assert text.startswith(f"# {title}\n")
    before = text.split("\n## ", 1)[0]
    assert [anchor(each) for each in headings(text, "##")] == [
        link.removeprefix("#") for link in links(before) if link.startswith("#")
    ]


def test_index_and_readme_link_to_every_page() -> None:
    names = {path.name for path in page_files()}
    assert set(links(section(page("index"), "## Pages"))) == names - {"index.md"}
    pages = {Path(link) for link in links(README) if link.startswith("kafka_http/manual/")}
    assert {each.name for each in pages if each.parent.name == "manual"} == names
