"""The README and the manual's pages, for tests that compare them with the code."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
README_FILE = ROOT / "README.md"
README = README_FILE.read_text()
MANUAL = ROOT / "kafka_http" / "manual"
ACTIVATE = ". .venv/bin/activate"
"""The command that activates the virtual environment."""
RUNNABLE_PAGES = (
    *("publish", "read", "streams", "publish-later", "idempotency", "operations", "topics", "metrics", "queues"),
)
"""Pages whose curl commands all work one after the other, against a server with its default settings."""

_SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page_files() -> list[Path]:
    """The pages of the manual, in the order of their names."""
    return sorted(MANUAL.glob("*.md"))


def page(name: str) -> str:
    """The text of a page: `page("publish")`."""
    return (MANUAL / f"{name}.md").read_text()


def section(text: str, heading: str) -> str:
    """The text below a heading, such as `"## Calls"`, up to the next heading of its level."""
    level = heading.partition(" ")[0]
    return text.split(f"\n{heading}\n", 1)[1].split(f"\n{level} ", 1)[0]


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table in a section."""
    lines = re.search(r"(?:^\|.*\n)+", section(text, heading), re.MULTILINE)
    assert lines is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def shell_commands(text: str) -> list[str]:
    """The commands in the `sh` blocks of a text, each with its continuation lines."""
    commands: list[str] = []
    for block in _SHELL_BLOCK.findall(text):
        command = ""
        for line in block.splitlines():
            command = f"{command}\n{line}" if command else line
            if not _continues(command):
                commands.append(command)
                command = ""
        assert not command, f"unfinished command: {command}"
    return commands


def curl_commands(text: str) -> list[str]:
    """Those of the commands that start with curl."""
    return [command for command in shell_commands(text) if command.startswith("curl ")]


def _continues(command: str) -> bool:
    if command.endswith(("\\", "|")):
        return True
    try:
        shlex.split(command)
    except ValueError:  # a quotation mark is open
        return True
    return False
