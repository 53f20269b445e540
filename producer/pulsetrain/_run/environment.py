"""Where a run takes place: the machine, the program, the state of its git repository."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

GIT_SECONDS = 5.0
# By launcher: the variable that tells that it is one, and those that together name the launch.
_LAUNCHES = (
    (
        "torchelastic",
        "TORCHELASTIC_RUN_ID",
        ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"),
    ),
    ("slurm", "SLURM_STEP_ID", ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")),
    ("pmix", "PMIX_NAMESPACE", ("PMIX_NAMESPACE",)),
)
_SECRET_WORDS = ("password", "passwd", "secret", "token", "api_key", "apikey", "api-key", "credential")


def host() -> str:
    """The machine's name."""
    return os.uname().nodename


def capture(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """What is known at once. What takes longer, see `git`."""
    arguments = list(sys.argv if argv is None else argv)
    program = arguments[0] if arguments else ""
    uname = os.uname()
    found: dict[str, Any] = {
        "host": uname.nodename,
        "user": _user(),
        "os": f"{uname.sysname} {uname.release} {uname.machine}",
        "python": ".".join(map(str, sys.version_info[:3])),
        "executable": sys.executable,
        "program": str(Path(program).absolute()) if program and Path(program).exists() else program,
        "args": without_secrets(arguments[1:]),
        "cwd": _cwd(),
        "pid": os.getpid(),
        "cpu_count": os.cpu_count(),
    }
    gpus = _gpus(Path("/proc/driver/nvidia/gpus"))
    if gpus:
        found["gpu_count"] = len(gpus)
        found["gpus"] = gpus
    return found


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments with the values of what looks like a secret replaced by ***."""
    shown: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        secret = any(word in name.lower() for word in _SECRET_WORDS)
        if hide_next and not argument.startswith("-"):
            shown.append("***")
        elif secret and equals:
            shown.append(f"{name}=***")
        else:
            shown.append(argument)
        hide_next = secret and not equals and argument.startswith("-")
    return shown


def git(directory: Path, timeout: float = GIT_SECONDS) -> dict[str, Any]:
    """Commit, branch, remote and whether something is changed; empty outside a repository or without git."""
    import subprocess

    def ask(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(directory), *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if not commit:
        return {}
    changes = ask("status", "--porcelain", "--untracked-files=no")
    found = {
        "git_commit": commit,
        "git_branch": ask("rev-parse", "--abbrev-ref", "HEAD"),
        "git_root": ask("rev-parse", "--show-toplevel"),
        "git_remote": without_credentials(ask("config", "--get", "remote.origin.url") or ""),
        "git_dirty": None if changes is None else bool(changes),
    }
    return {key: value for key, value in found.items() if value not in (None, "")}


def without_credentials(url: str) -> str:
    """A URL without the user and password that may be in it."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def rank(env: Mapping[str, str]) -> int:
    """Which process of a distributed job this is, as the launchers tell it; 0 where none does."""
    for name in ("PULSETRAIN_RANK", "RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"):
        text = env.get(name, "")
        if text.isdecimal():
            return int(text)
    return 0


def launch(env: Mapping[str, str]) -> str | None:
    """What the processes of one launch of a job have in common, and no other launch has; None where nothing tells."""
    if env.get("PULSETRAIN_LAUNCH"):
        return env["PULSETRAIN_LAUNCH"]
    for kind, needed, names in _LAUNCHES:
        if env.get(needed):
            return ":".join((kind, *(env.get(name, "") for name in names)))
    return None


def ancestors() -> list[int]:
    """The ids of this process and of those that it comes of."""
    import psutil

    try:
        return [os.getpid(), *(process.pid for process in psutil.Process().parents())]
    except psutil.Error:
        return [os.getpid(), os.getppid()]


def in_notebook() -> bool:
    """Whether the program is a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def _user() -> str:
    for name in ("LOGNAME", "USER", "USERNAME"):
        if os.environ.get(name):
            return os.environ[name]
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _cwd() -> str:
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError:
        return ""


def _gpus(directory: Path) -> list[str]:
    """The names of the GPUs, as the driver's files tell them; asking the driver itself is the sampler's work."""
    names = []
    try:
        for information in sorted(directory.glob("*/information")):
            lines = information.read_text(errors="replace").splitlines()
            names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    except OSError:
        return names
    return names
