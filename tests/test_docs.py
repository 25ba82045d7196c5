"""The pages are true as far as a machine can tell: links, names, files, commands, settings, metrics, examples."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from pydantic import TypeAdapter

from daemon.cli import app
from daemon.metrics import Metrics
from daemon.records import Label, Reason, Text
from daemon.rows import TrainingRow
from daemon.schema import dotted, groups

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*.md")])
# Not out/: what commands leave there comes and goes.
FOLDERS = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and path.name != "out")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


class Link(NamedTuple):
    text: str
    path: Path
    anchor: str


class Page(NamedTuple):
    """A page without its code blocks, its code spans, and its code blocks as (language, lines)."""

    prose: str
    spans: list[str]
    blocks: list[tuple[str, list[str]]]


@cache
def read(page: Path) -> Page:
    text = page.read_text(encoding="utf-8")
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    blocks = [(found[1], found[2].splitlines()) for found in fence.finditer(text)]
    prose = fence.sub("", text)
    return Page(prose, re.findall(r"`([^`\n]+)`", prose), blocks)


def links(page: Path) -> Iterator[Link]:
    """Links to files of the repository."""
    for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", read(page).prose):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield Link(text, (page.parent / path).resolve() if path else page, anchor)


def headings(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    lines = re.findall(r"^#+ (.+)$", read(page).prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@cache
def names(path: Path) -> frozenset[str]:
    """What a Python file defines: functions, classes, constants, and `Class.member`."""
    return frozenset(_names(ast.parse(path.read_text(encoding="utf-8")).body, ""))


def _names(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name
        elif isinstance(node, ast.ClassDef):
            yield prefix + node.name
            yield from _names(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield prefix + target.id


def code(page: Path) -> list[str]:
    """The code spans and the lines of code blocks, without comments."""
    lines = [line for _, block in read(page).blocks for line in block]
    whole = "\n".join(re.sub(r"(^|\s)# .*", "", line) for line in lines).replace("\\\n", " ")
    return [*read(page).spans, *whole.split("\n")]


def commands(page: Path) -> Iterator[list[str]]:
    """Every `relearnd …` of a page's code, as words."""
    for line in code(page):
        for found in re.finditer(r"(?:^|-- |\| |=\S+ )(?:[\w./-]*/)?relearnd ((?:--)?[a-z-]+(?!\S)[^|<>;&]*)", line):
            yield shlex.split(found[1])


@every_page
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    for link in links(page):
        assert link.path.exists(), f"{link.path.relative_to(ROOT)} is not there"
        if link.anchor:
            assert link.anchor in headings(link.path), f"no heading #{link.anchor} in {link.path.name}"


@every_page
def test_a_name_that_links_to_a_file_is_in_that_file(page: Path) -> None:
    for link in links(page):
        name = re.fullmatch(r"`([\w.]+)`", link.text)
        if name and link.path.suffix == ".py":
            assert name[1] in names(link.path), f"no {name[1]} in {link.path.relative_to(ROOT)}"


@every_page
def test_a_path_that_is_mentioned_is_there(page: Path) -> None:
    for span in read(page).spans:
        if re.fullmatch(r"[\w./-]+", span) and span.startswith(FOLDERS):
            assert (ROOT / span).exists(), f"{span} is not there"


@every_page
def test_every_command_and_option_that_is_mentioned_exists(page: Path) -> None:
    program = typer.main.get_command(app)
    for words in commands(page):
        command, left = program, list(words)
        while left and not left[0].startswith("-") and (inside := getattr(command, "commands", {})):
            assert left[0] in inside, f"there is no relearnd {' '.join(words)}"
            command = inside[left.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        given = {word.partition("=")[0] for word in left if re.match(r"-{1,2}[a-z]", word)}
        assert given <= known, f"relearnd {' '.join(words)}: no option {', '.join(given - known)}"


def test_every_command_of_the_program_is_on_some_page() -> None:
    mentioned = {" ".join(words[:2]) for page in PAGES for words in commands(page)}
    mentioned |= {words.split()[0] for words in mentioned}
    for name, command in getattr(typer.main.get_command(app), "commands", {}).items():
        inside = getattr(command, "commands", {})
        assert {name, *(f"{name} {one}" for one in inside)} <= mentioned


@every_page
def test_every_make_target_that_is_mentioned_exists(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {target for line in code(page) for target in re.findall(r"^make (\w+)", line)} <= targets


@every_page
def test_every_setting_that_is_mentioned_exists(page: Path) -> None:
    known = {dotted(group.key) for group in groups()} | {dotted(s.key) for group in groups() for s in group.settings}
    sections = {name.partition(".")[0] for name in known if "." in name}
    files = (".db", ".jsonl", ".json", ".py", ".yaml", ".safetensors")
    for span in read(page).spans:
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", span) and span.split(".")[0] in sections and not span.endswith(files):
            assert span in known, f"there is no setting {span}"


@every_page
def test_every_metric_that_is_mentioned_exists(page: Path) -> None:
    known = {entry.name for entry in Metrics("0").entries}
    for span in read(page).spans:
        if re.fullmatch(r"relearnd_\w+", span):
            assert span in known, f"there is no metric {span}"


@every_page
def test_every_example_of_a_record_is_one(page: Path) -> None:
    record: TypeAdapter[Text | Label | TrainingRow] = TypeAdapter(Text | Label | TrainingRow)
    for language, lines in read(page).blocks:
        for line in lines if language == "jsonl" else []:
            record.validate_json(line)


def test_every_reason_for_a_dead_letter_is_explained() -> None:
    spans = read(ROOT / "docs" / "operations.md").spans
    assert {reason.value for reason in Reason} <= set(spans)


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, left = set[Path](), [ROOT / "README.md"]
    while left:
        page = left.pop()
        if page not in reached and page.suffix == ".md" and page.exists():
            reached.add(page)
            left += [link.path for link in links(page)]
    assert set(PAGES) <= reached
