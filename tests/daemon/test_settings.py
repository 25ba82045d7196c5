import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import Config
from daemon.schema import groups
from daemon.settings import SettingsError, commented_yaml, load


def read(tmp_path: Path, text: str) -> Config:
    return load(write(tmp_path, text), environment={}, overrides=[])


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "relearnd.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(tmp_path: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    return tuple(problem.replace(str(tmp_path) + "/", "") for problem in caught.value.problems)


def set_problems(*overrides: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(None, environment={}, overrides=overrides)
    return caught.value.problems


def environment_problems(**environment: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(None, environment=environment, overrides=[])
    return caught.value.problems


def test_without_any_source_the_defaults_hold() -> None:
    assert load(None, environment={"PATH": "/bin"}, overrides=[]) == Config()


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n", "gate:\ndrift:\n"])
def test_a_file_that_says_nothing_leaves_the_defaults(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == Config()


@given(said=st.sets(st.sampled_from(["file", "environment", "set"])))
def test_the_last_layer_that_says_something_wins(tmp_path_factory: pytest.TempPathFactory, said: set[str]) -> None:
    file = write(tmp_path_factory.mktemp("layers"), "seed: 1\nhome: here" if "file" in said else "home: here")
    environment = {"RELEARND_SEED": "2"} if "environment" in said else {}
    overrides = ["seed=3"] if "set" in said else []

    config = load(file, environment=environment, overrides=overrides)

    assert config.seed == (3 if "set" in said else 2 if "environment" in said else 1 if "file" in said else 0)
    assert config.home == Path("here")


def test_layers_merge_within_a_section(tmp_path: Path) -> None:
    file = write(tmp_path, "triggers: {cooldown: 15m, labels: 7, accuracy: {drop: 0.5}}")

    config = load(file, environment={"RELEARND_TRIGGERS__ACCURACY__WINDOW": "9"}, overrides=["triggers={labels: 8}"])

    assert config.triggers.cooldown == 900
    assert config.triggers.labels == 8
    assert (config.triggers.accuracy.drop, config.triggers.accuracy.window) == (0.5, 9)


def test_the_last_of_two_overrides_wins() -> None:
    assert load(None, environment={}, overrides=["seed=1", "seed=2"]).seed == 2


def test_a_list_is_given_whole() -> None:
    override = "drift.detectors=[{kind: kswin, signal: error, options: {alpha: 1e-4}}]"

    (detector,) = load(None, environment={}, overrides=[override]).drift.detectors

    assert (detector.kind, detector.options) == ("kswin", {"alpha": 1e-4})


@pytest.mark.parametrize("schedule", ["*/5 * * * *", "0 3 * * 1 # not a comment", "null", "a: b", "[", ""])
def test_text_in_the_environment_and_on_the_command_line_is_taken_as_it_stands(schedule: str) -> None:
    by_variable = load(None, environment={"RELEARND_TRIGGERS__SCHEDULE": schedule}, overrides=[])
    by_option = load(None, environment={}, overrides=[f"triggers.schedule={schedule}"])

    assert by_variable.triggers.schedule == by_option.triggers.schedule == schedule


def test_a_topic_may_be_called_by_a_number() -> None:
    assert load(None, environment={"RELEARND_TOPICS__TEXTS": "2024"}, overrides=[]).topics.texts == "2024"


@pytest.mark.parametrize("nothing", ["", "null"])
def test_an_optional_path_can_be_unset_again(tmp_path: Path, nothing: str) -> None:
    file = write(tmp_path, "connector: {local: {path: a.db}}")

    config = load(file, environment={"RELEARND_CONNECTOR__LOCAL__PATH": nothing}, overrides=[])

    assert config.connector.local.path is None


def test_an_unknown_key_names_the_nearest_right_one_and_its_line(tmp_path: Path) -> None:
    assert problems(tmp_path, "home: x\ntriggers:\n  cooldwon: 1h\n") == (
        "triggers.cooldwon: no such setting; did you mean triggers.cooldown? (relearnd.yaml:3)",
    )


def test_a_key_in_the_wrong_section_is_found_in_the_right_one() -> None:
    assert set_problems("gate.cooldown=1h") == (
        "gate.cooldown: no such setting; did you mean triggers.cooldown? (--set gate.cooldown)",
    )


def test_an_unknown_variable_names_the_right_variable() -> None:
    assert environment_problems(RELEARND_HTTP_PORT="80") == (
        "http_port: no such setting; did you mean RELEARND_HTTP__PORT? (RELEARND_HTTP_PORT)",
    )


def test_a_key_like_no_other_lists_what_the_section_has() -> None:
    assert set_problems("probation.zzz=1") == (
        "probation.zzz: no such setting; probation has labels, alpha (--set probation.zzz)",
    )


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, "seed: -1\nfoo: 1\nrecords:\n  max_future: soon\n")

    with pytest.raises(SettingsError) as caught:
        load(file, environment={"RELEARND_HTTP__PORT": "99999"}, overrides=["gate=3", "nonsense", "seeds=[1"])

    message = str(caught.value)
    assert message.startswith("7 problems in the settings:\n")
    assert "\n  seed: must be greater than or equal to 0; got -1 (" in message
    assert '\n  records.max_future: must be a time: 90s, 15m, 6h, 7d or a number of seconds; got "soon" (' in message
    assert "relearnd.yaml:4)" in message
    assert "\n  http.port: must be less than or equal to 65535; got 99999 (RELEARND_HTTP__PORT)" in message
    assert "\n  gate: is a section (alpha, " in message
    assert "\n  --set nonsense: write it as key.path=value" in message
    assert '\n  seeds: cannot be read as YAML: "[1" (--set seeds)' in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("seed: 1\nseed: 2\n", "relearnd.yaml:2: seed: already set on line 1"),
        ("gate:\n  alpha: 0.1\ngate:\n", "relearnd.yaml:3: gate: already set on line 1"),
        ("- 1\n", "relearnd.yaml: sections and keys (`model:`, `home: …`) are expected, not [1]"),
        ("home\n", 'relearnd.yaml: sections and keys (`model:`, `home: …`) are expected, not "home"'),
        (
            "topics: {texts: no}",
            "topics.texts: must be text (in YAML, put it in quotes); got false (relearnd.yaml:1)",
        ),
        (
            "drift:\n  detectors:\n  - kind: adwin\n    signal: error\n    opts: {}\n",
            "drift.detectors[0].opts: no such key; there are kind, signal, options (relearnd.yaml:5)",
        ),
        (
            "drift:\n  detectors:\n  - kind: adwin\n",
            "drift.detectors[0].signal: is required (relearnd.yaml:3)",
        ),
        (
            "memory: {gate_share: 0.6, audit_share: 0.6}",
            "memory.gate_share and memory.audit_share leave nothing to learn from",
        ),
        ("seed: &a 1\ngate: *a\n", "relearnd.yaml:1: gate: aliases (`*name`) are not supported; write the value out"),
    ],
)
def test_a_problem_says_what_and_where(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in problems(tmp_path, text)


@pytest.mark.parametrize(
    "text", ["home: [\n", "home: \tx\n\ty: 1", "a: 1\n---\nb: 2\n", "home: !!python/name:os.system"]
)
def test_what_is_not_plain_yaml_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    (problem,) = problems(tmp_path, text)

    assert re.match(r"relearnd\.yaml:\d+: not YAML at column \d+: .", problem)


def test_a_list_that_contains_itself_is_refused(tmp_path: Path) -> None:
    assert any("aliases" in problem for problem in problems(tmp_path, "drift:\n  detectors: &a [*a]\n"))


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no\.yaml: no such file; `relearnd init` writes one"):
        load(tmp_path / "no.yaml", environment={}, overrides=[])


def test_a_directory_or_a_binary_file_is_no_configuration(tmp_path: Path) -> None:
    binary = tmp_path / "model.bin"
    binary.write_bytes(b"home: \xff")

    with pytest.raises(SettingsError, match="Is a directory"):
        load(tmp_path, environment={}, overrides=[])
    with pytest.raises(SettingsError, match="not UTF-8 at byte 6"):
        load(binary, environment={}, overrides=[])


def test_kubernetes_service_variables_and_the_token_are_no_settings() -> None:
    environment = {
        "RELEARND_SERVICE_HOST": "10.0.0.1",
        "RELEARND_SERVICE_PORT": "9464",
        "RELEARND_SERVICE_PORT_HTTP": "9464",
        "RELEARND_PORT": "tcp://10.0.0.1:9464",
        "RELEARND_PORT_9464_TCP": "tcp://10.0.0.1:9464",
        "RELEARND_PORT_9464_TCP_ADDR": "10.0.0.1",
        "RELEARND_CONTROLLER_SERVICE_HOST": "10.0.0.2",
        "RELEARND_CONTROLLER_PORT": "tcp://10.0.0.2:9464",
        "RELEARND_TOKEN": "secret",
    }

    assert load(None, environment=environment, overrides=[]) == Config()


def test_the_commented_file_is_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, commented_yaml()) == Config()


def test_the_commented_file_uncommented_is_the_defaults_too(tmp_path: Path) -> None:
    uncommented = re.sub(r"(?m)^( *)#(?! )", r"\1", commented_yaml())

    assert read(tmp_path, uncommented) == Config()
    tree = yaml.safe_load(uncommented)
    for group in groups():
        section = tree
        for part in group.key:
            section = section[part]
        assert {str(setting.key[-1]) for setting in group.settings} <= set(section)


def test_any_one_setting_of_the_commented_file_can_be_uncommented_alone(tmp_path: Path) -> None:
    text = commented_yaml()
    for match in re.finditer(r"(?m)^ *#(?![ -]).*(\n *#- .*)*", text):
        alone = text[: match.start()] + re.sub(r"(?m)^( *)#", r"\1", match[0]) + text[match.end() :]

        assert read(tmp_path, alone) == Config()
