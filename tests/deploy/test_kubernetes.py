from pathlib import Path
from typing import Any

import pytest
import yaml

from daemon.settings import load
from tests.deploy.conftest import Run

Objects = dict[str, Any]


@pytest.fixture(params=["base", "overlays/gpu"])
def objects(request: pytest.FixtureRequest, deploy: Path, run: Run) -> Objects:
    """What kubectl would apply, by kind."""
    rendered = run("kubectl", "kustomize", deploy / "kubernetes" / request.param)
    return {one["kind"]: one for one in yaml.safe_load_all(rendered)}


def test_all_of_it_is_rendered(objects: Objects) -> None:
    assert set(objects) == {"ConfigMap", "Deployment", "NetworkPolicy", "PersistentVolumeClaim", "Service"}


def test_the_service_and_the_policy_are_about_this_pod_and_no_other(objects: Objects) -> None:
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels
    assert objects["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    assert objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels


def test_the_pod_mounts_what_exists(objects: Objects) -> None:
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["home"]["persistentVolumeClaim"]["claimName"] == objects["PersistentVolumeClaim"]["metadata"]["name"]
    assert volumes["config"]["configMap"]["name"] == objects["ConfigMap"]["metadata"]["name"]
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == set(volumes)


def test_there_is_never_a_second_pod_on_the_volume(objects: Objects) -> None:
    spec = objects["Deployment"]["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_the_pod_needs_no_privilege(objects: Objects) -> None:
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_daemon_takes_the_settings_and_listens_where_it_is_probed(objects: Objects, tmp_path: Path) -> None:
    path = tmp_path / "relearnd.yaml"
    path.write_text(objects["ConfigMap"]["data"]["relearnd.yaml"])
    config = load(path, environment={}, overrides=[])
    (container,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": config.http.port}]
    assert config.http.host == "0.0.0.0"  # noqa: S104 (in the pod; the network policy says who gets there)
    assert any(mount["mountPath"] == str(config.home) for mount in container["volumeMounts"])


def test_the_pod_for_the_first_model_has_the_same_volume_and_rights(objects: Objects, deploy: Path) -> None:
    first = yaml.safe_load((deploy / "kubernetes" / "first-model.yaml").read_text())["spec"]
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    assert first["volumes"] == [volume for volume in pod["volumes"] if volume["name"] == "home"]
    assert first["securityContext"].items() <= pod["securityContext"].items()


@pytest.fixture
def apart(deploy: Path, run: Run) -> dict[tuple[str, str], Any]:
    """What kubectl would apply for scorers apart, by kind and name."""
    rendered = run("kubectl", "kustomize", deploy / "kubernetes" / "overlays" / "apart")
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(rendered)}


def pod_of(deployment: Objects) -> Objects:
    pod: Objects = deployment["spec"]["template"]["spec"]
    return pod


def mounts(pod: Objects) -> dict[str, Objects]:
    return {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}


def test_apart_there_is_one_controller_and_any_number_of_scorers_with_the_same_settings(
    apart: dict[tuple[str, str], Any], tmp_path: Path
) -> None:
    controller, scorer = apart["Deployment", "relearnd"], apart["Deployment", "relearnd-scorer"]
    assert pod_of(controller)["containers"][0]["args"][:3] == ["run", "--role", "controller"]
    assert pod_of(scorer)["containers"][0]["args"][:3] == ["run", "--role", "scorer"]
    assert (controller["spec"]["replicas"], controller["spec"]["strategy"]) == (1, {"type": "Recreate"})
    assert scorer["spec"]["replicas"] > 1
    (settings,) = [one for (kind, _), one in apart.items() if kind == "ConfigMap"]
    for deployment in (controller, scorer):
        volumes = {volume["name"]: volume for volume in pod_of(deployment)["volumes"]}
        assert volumes["config"]["configMap"]["name"] == settings["metadata"]["name"]
        assert set(volumes) == set(mounts(pod_of(deployment)))
    path = tmp_path / "relearnd.yaml"
    path.write_text(settings["data"]["relearnd.yaml"])
    config = load(path, environment={}, overrides=[])
    assert config.connector.kind == "kafka"
    assert mounts(pod_of(controller))["models"]["mountPath"] == config.registry.url
    assert mounts(pod_of(controller))["home"]["mountPath"] == str(config.home)


def test_apart_a_scorer_keeps_nothing_and_cannot_write_what_it_fetches(apart: dict[tuple[str, str], Any]) -> None:
    controller, scorer = pod_of(apart["Deployment", "relearnd"]), pod_of(apart["Deployment", "relearnd-scorer"])
    volumes = {volume["name"]: volume for volume in scorer["volumes"]}
    assert "emptyDir" in volumes["home"]
    assert mounts(scorer)["models"]["readOnly"] is True
    assert volumes["models"]["persistentVolumeClaim"] == {"claimName": "relearnd-models", "readOnly": True}
    assert "ReadWriteMany" in apart["PersistentVolumeClaim", "relearnd-models"]["spec"]["accessModes"]
    assert not mounts(controller)["models"].get("readOnly")


def test_apart_a_scorer_has_no_more_rights_than_the_controller_and_is_not_taken_for_it(
    apart: dict[tuple[str, str], Any],
) -> None:
    controller, scorer = apart["Deployment", "relearnd"], apart["Deployment", "relearnd-scorer"]
    assert pod_of(scorer)["securityContext"] == pod_of(controller)["securityContext"]
    for name in ("securityContext", "image", "envFrom", "livenessProbe", "startupProbe", "readinessProbe"):
        assert pod_of(scorer)["containers"][0][name] == pod_of(controller)["containers"][0][name]
    labels = scorer["spec"]["template"]["metadata"]["labels"]
    assert scorer["spec"]["selector"]["matchLabels"] == labels
    assert apart["Service", "relearnd"]["spec"]["selector"].items() - labels.items()
    policy = apart["NetworkPolicy", "relearnd-scorer"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert policy | {"podSelector": None} == apart["NetworkPolicy", "relearnd"]["spec"] | {"podSelector": None}
