# SPDX-License-Identifier: Apache-2.0
"""The Helm chart installs and does nothing else: it never serves the socket from a pod."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from shim.cli.main import cli

CHART = Path(__file__).parents[2] / "installer" / "chart"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())


def rendered() -> dict[str, Any]:
    """The DaemonSet with the default values put in, by the few forms that the template uses."""
    text = (CHART / "templates" / "daemonset.yaml").read_text()
    text = re.sub(r" *\{\{- range .*?\}\}.*?\{\{- end \}\}\n", "", text, flags=re.DOTALL)
    text = text.replace("{{ .Release.Namespace }}", "kube-system")
    text = re.sub(r"\{\{-? toYaml \.Values\.(\w+) .*?\}\}", lambda m: inline(VALUES[m[1]]), text)
    text = re.sub(r"\{\{ \.Values\.(\w+) \| quote \}\}", lambda m: inline(VALUES[m[1]]), text)
    assert "{{" not in text
    data: dict[str, Any] = yaml.safe_load(text)
    return data


def inline(value: object) -> str:
    """A value in flow style, which fits any indentation."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("...\n").strip()


def test_the_chart_has_a_name_and_versions() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["apiVersion"], chart["name"]) == ("v2", "podferry-installer")


def test_it_runs_install_on_the_host_and_serves_nothing() -> None:
    pod = rendered()["spec"]["template"]["spec"]
    (installer,) = pod["initContainers"]
    assert pod["hostPID"] is True
    assert installer["args"] == [VALUES["command"], "install"]
    assert installer["command"][0] == "nsenter"
    assert {"--target=1", "--mount"} <= set(installer["command"])
    containers = [installer, *pod["containers"]]
    assert "volumes" not in pod, "no socket of the host comes into the pod"
    assert not [c for c in containers if "volumeMounts" in c or "ports" in c]
    assert not [c for c in containers if "serve" in c.get("args", []) + c["command"]]
    (waiting,) = pod["containers"]
    assert not waiting["securityContext"].get("privileged", False)


def test_podferry_leaves_the_installers_pod_alone() -> None:
    annotations = rendered()["spec"]["template"]["metadata"]["annotations"]
    assert annotations["podferry.dev/managed"] == "false"


def test_the_command_it_runs_exists() -> None:
    assert CliRunner().invoke(cli, ["install", "--help"]).exit_code == 0
