# SPDX-License-Identifier: Apache-2.0
"""The commands `podferry install` and `podferry uninstall`: options in, plan or progress out."""

from __future__ import annotations

import json
import shutil
import sys
from importlib import metadata
from pathlib import Path

import click

import shim
from shim.cli.output import output_option
from shim.errors import InstallRefused
from shim.installer import content, report, session
from shim.installer.facts import Wish
from shim.installer.steps import Step

UNFINISHED_STATUS = 3
OWN_RUNTIME = Path(shim.__file__).parent / "bin" / "podferry-runtime"

_root = click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("/"),
    metavar="DIR",
    help="Root directory of the node. Other than /, only files are changed: no service is started, "
    "no kernel value set, no command run; the node's next boot does that.",
)
_dry_run = click.option(
    "--dry-run",
    is_flag=True,
    help="Change nothing; print every step with a unified diff of each file.",
)
_restart_kubelet = click.option(
    "--restart-kubelet",
    is_flag=True,
    help="Restart kubelet when its files were changed. Without it the command to run is printed. "
    "Restarting kubelet does not stop containers.",
)


@click.command()
@_root
@_dry_run
@_restart_kubelet
@click.option(
    "--kubelet-config",
    "kubelet_configs",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PATH",
    help="A file (--config) or directory (--config-dir) that kubelet reads, by its path on the "
    "node, if the units do not tell. Can be repeated.",
)
@click.option(
    "--command",
    type=click.Path(path_type=Path),
    default=None,
    metavar="PATH",
    help="The podferry command by its path on the node. Default: this one.",
)
@click.option(
    "--containerd-runtime",
    default="",
    is_flag=False,
    flag_value=str(OWN_RUNTIME),
    metavar="[PATH]",
    help="Also make containerd (2 or later) run podferry-runtime in front of runc, by a drop-in in "
    "/etc/containerd/conf.d: pods made after containerd's restart can sleep. PATH names another "
    "OCI runtime. Passing calls does not need it.",
)
@click.option(
    "--restart-containerd",
    is_flag=True,
    help="Restart containerd if its drop-in was written. Without it the command is printed.",
)
@output_option
@click.pass_obj
def install(
    config: Path | None,
    root: Path,
    dry_run: bool,
    restart_kubelet: bool,
    kubelet_configs: tuple[Path, ...],
    command: Path | None,
    containerd_runtime: str,
    restart_containerd: bool,
    output: str,
) -> None:
    """Install podferry on a node and point kubelet at it.

    \b
    What it does, in this order:
      1. saves a back-up of each file it will change and writes a journal to
         /var/lib/podferry/install;
      2. writes default settings (if there are none), a sysctl file, the systemd
         unit, and a drop-in that starts kubelet behind it;
      3. starts podferry.service and waits until its socket answers;
      4. points kubelet at the socket, where kubelet really takes it from: a flag
         in a unit or environment file, a file in --config-dir, or the file of
         --config; kubeadm's instance-config.yaml and node annotation follow;
      5. restarts kubelet if --restart-kubelet was given.

    Every file keeps all of its bytes but the one value. A second run changes nothing. After a
    crash run it again, or uninstall. containerd is changed only with --containerd-runtime and
    restarted only with --restart-containerd; /etc/crictl.yaml is left alone.

    \b
    Exit status: 0 done (also if nothing was to be done); 1 refused or failed,
    with the reason; 2 wrong usage.

    \b
    Examples:
      podferry install --dry-run
      podferry install --restart-kubelet
      podferry install --root /mnt/image --command /usr/local/bin/podferry
    """
    wish = Wish(
        command=str(command or this_command()),
        version=metadata.version("podferry"),
        settings_path=str(config.absolute()) if config else "",
        kubelet_configs=tuple(str(path) for path in kubelet_configs),
        restart_kubelet=restart_kubelet,
        containerd_runtime=containerd_runtime,
        restart_containerd=restart_containerd,
    )
    node = session.Node.at(root)
    if dry_run:
        prepared, changed = session.prepare_install(node, wish), False
    else:
        prepared, changed = session.install(node, wish, _progress)
    steps = prepared.plan.steps
    done = "nothing to change: podferry is installed as it should be"
    if steps:
        done = "nothing was changed (dry run)" if dry_run else "podferry is installed"
    elif changed:
        done = "an earlier install that was interrupted is complete now"
    _show(
        output,
        steps,
        prepared.plan.notes,
        prepared.plan.pending,
        done,
        dry_run=dry_run,
        changed=changed,
    )


@click.command()
@_root
@_dry_run
@_restart_kubelet
@output_option
def uninstall(root: Path, dry_run: bool, restart_kubelet: bool, output: str) -> None:
    """Take podferry off a node and put every file back as it was.

    Kubelet is pointed back first. The service is stopped only when no running kubelet uses its
    socket: without --restart-kubelet, and with kubelet running, uninstall stops there and says
    what to run; then run uninstall again.

    A file that was changed by somebody else since keeps their changes: only podferry's own value
    is taken out of it. Edited settings are kept. Containers are not touched.

    \b
    Exit status: 0 done; 1 refused or failed, with the reason; 2 wrong usage;
    3 kubelet must be restarted before the rest can be done.

    \b
    Examples:
      podferry uninstall --dry-run
      podferry uninstall --restart-kubelet
    """
    node = session.Node.at(root)
    if dry_run:
        plan, _ = session.prepare_uninstall(node, restart_kubelet=restart_kubelet)
        is_finished, done = True, "nothing was changed (dry run)"
    else:
        plan, is_finished = session.uninstall(node, _progress, restart_kubelet=restart_kubelet)
        done = "podferry is removed"
        if not is_finished:
            done = "kubelet's files are put back, but the running kubelet still uses podferry"
    steps = plan.kubelet if plan.waits_for else (*plan.kubelet, *plan.service)
    notes = plan.notes
    if node.disk.is_state_left():
        notes = (*notes, f"the service's own records in {content.STATE_DIR} are kept")
    pending = (plan.waits_for, "podferry uninstall") if plan.waits_for else ()
    _show(output, steps, notes, pending, done, dry_run=dry_run, changed=not dry_run)
    if not is_finished:
        sys.exit(UNFINISHED_STATUS)


def this_command() -> str:
    """The absolute path by which systemd can start what is running now.

    Raises:
        InstallRefused: it was not started by a path that can be found.
    """
    found = shutil.which(sys.argv[0])
    if found is None or not Path(found).name.startswith("podferry"):
        found = shutil.which("podferry")
    if found is None:
        raise InstallRefused(
            "the podferry command was not found in PATH", remedy="name it with --command"
        )
    return str(Path(found).absolute())


def _progress(line: str) -> None:
    click.echo(line, err=True)


def _show(
    output: str,
    steps: tuple[Step, ...],
    notes: tuple[str, ...],
    pending: tuple[str, ...],
    done: str,
    *,
    dry_run: bool,
    changed: bool,
) -> None:
    if output == "json":
        data = {
            "dry_run": dry_run,
            "changed": changed,
            "result": done,
            "steps": report.as_data(steps),
            "notes": list(notes),
            "pending": list(pending),
        }
        click.echo(json.dumps(data, indent=2))
        return
    if dry_run:
        click.echo(report.as_text(steps), nl=False)
    for note in notes:
        click.echo(f"note: {note}")
    click.echo(done)
    for command in pending:
        click.echo(f"run: {command}")
