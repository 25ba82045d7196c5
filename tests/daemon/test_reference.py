import re
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.metrics import Metrics
from daemon.reference import PAGES, configuration, metrics
from daemon.schema import dotted, groups

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", sorted(PAGES))
def test_the_page_on_disk_is_what_the_code_says(page: str) -> None:
    written = (DOCS / f"{page}.md").read_text(encoding="utf-8")

    assert written == PAGES[page](), f"run: python -m daemon.reference {page} > docs/{page}.md"


def test_every_setting_has_a_row_with_a_meaning() -> None:
    rows = [line.split(" | ") for line in configuration().splitlines() if line.startswith("| `")]

    assert [row[0].removeprefix("| ") for row in rows] == [
        f"`{dotted(setting.key)}`" for group in groups() for setting in group.settings
    ]
    assert all(row[-1].removesuffix(" |").strip() for row in rows)


def test_every_metric_has_a_row() -> None:
    for entry in Metrics("0").entries:
        assert f"| `{entry.name}` | {entry.kind} |" in metrics()


def test_a_query_asks_only_for_metrics_that_exist() -> None:
    names = {entry.name for entry in Metrics("0").entries}
    for query in re.findall(r"```promql\n(.*)\n```", metrics()):
        for name in re.findall(r"relearnd_\w+", query):
            assert re.sub(r"_(bucket|sum|count)$", "", name) in names


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["metrics", "configuration"]])
def test_wrong_usage_is_explained(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "daemon.reference", *arguments], capture_output=True, text=True)

    assert done.returncode == 2
    assert done.stderr == "usage: python -m daemon.reference configuration|metrics\n"
