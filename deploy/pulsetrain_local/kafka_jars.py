"""Brings Apache Kafka's broker to this machine once: its jars and a formatted storage.

Both lie in one directory of the user's cache, `pulsetrain/kafka-<version>`, which appears whole or not at all, so that
two first starts at a time do each other no harm. The jars are the ones listed in kafka_jars.txt, each held to its
SHA-256; they come from the local Maven repository where it has them, else through jgo, else through mvn.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol
from xml.sax.saxutils import escape

from pulsetrain_local.java import Java

FORMATTED = "formatted"
"""The directory that holds a formatted storage, less meta.properties, which is each broker's own."""
_JARS = "jars"
_DOWNLOADS_AT_A_TIME = 8


class KafkaNotInstalled(RuntimeError):
    """The broker's jars could not be brought here; the text says why and what to do."""


class InstallProgress(Protocol):
    """Told how an installation goes on."""

    def waiting(self, why: str) -> None:
        """Somebody else has to be done first."""

    def downloading(self, what: str, total: int) -> None:
        """A download of `total` bytes begins."""

    def downloaded(self, received: int) -> None:
        """So many more bytes are here. Called from several threads."""

    def preparing(self, what: str) -> None:
        """The downloads are done and something local goes on."""


class Silent:
    """Shows nothing."""

    def waiting(self, why: str) -> None: ...
    def downloading(self, what: str, total: int) -> None: ...
    def downloaded(self, received: int) -> None: ...
    def preparing(self, what: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Jar:
    """A published jar by its Maven coordinates, with its size in bytes and its SHA-256."""

    group: str
    artifact: str
    version: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    @property
    def path(self) -> str:
        """Where it lies in a Maven repository."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.name}"

    def is_at(self, path: Path) -> bool:
        """Whether this very jar, whole, is the file at `path`."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


def listed_jars() -> tuple[Jar, ...]:
    """The jars of kafka_jars.txt."""
    text = resources.files("pulsetrain_local").joinpath("kafka_jars.txt").read_text()
    jars = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            coordinates, size, sha256 = line.split()
            group, artifact, version = coordinates.split(":")
            jars.append(Jar(group, artifact, version, int(size), sha256))
    return tuple(jars)


def kafka_version(jars: Sequence[Jar]) -> str:
    """The version of the broker among these jars."""
    return next(jar.version for jar in jars if jar.artifact.startswith("kafka_"))


@dataclass(frozen=True, slots=True)
class KafkaInstallation:
    """Kafka's jars and what was prepared from them, in one directory."""

    directory: Path
    version: str

    @property
    def class_path(self) -> str:
        """Every jar, in an order that does not change: a prepared start holds for one class path."""
        return os.pathsep.join(str(jar) for jar in sorted((self.directory / _JARS).glob("*.jar")))

    @property
    def formatted(self) -> Path:
        """A formatted storage to copy."""
        return self.directory / FORMATTED

    def quick_start(self, java: Java) -> Path | None:
        """The archive of loaded classes for this Java, or where it would be; None for a Java that takes none."""
        if java.version >= 25:
            return self.directory / f"classes-{java.fingerprint}.aot"
        if (java.executable.resolve().parent.parent / "lib" / "server" / "classes.jsa").exists():
            return self.directory / f"classes-{java.fingerprint}.jsa"
        return None


def cache_directory(env: Mapping[str, str] = os.environ) -> Path:
    """The user's cache directory of Pulsetrain."""
    given = env.get("XDG_CACHE_HOME")
    base = Path(given) if given else Path(env.get("HOME") or Path.home()) / ".cache"
    return base / "pulsetrain"


def installed(env: Mapping[str, str] = os.environ) -> KafkaInstallation | None:
    """The installation in the cache, where there is one."""
    version = kafka_version(listed_jars())
    installation = KafkaInstallation(cache_directory(env) / f"kafka-{version}", version)
    return installation if installation.directory.is_dir() else None


def install(
    java: Java, progress: InstallProgress | None = None, env: Mapping[str, str] = os.environ
) -> KafkaInstallation:
    """The installation in the cache, made first where there is none. Raises KafkaNotInstalled."""
    present = installed(env)
    if present is not None:
        return present
    progress = progress or Silent()
    jars = listed_jars()
    version = kafka_version(jars)
    cache = cache_directory(env)
    target = cache / f"kafka-{version}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache / f"kafka-{version}.lock", progress):
            present = installed(env)
            if present is not None:
                return present
            for abandoned in cache.glob(f"kafka-{version}.*/"):  # by an installation that was killed
                shutil.rmtree(abandoned)
            with tempfile.TemporaryDirectory(prefix=f"kafka-{version}.", dir=cache) as unfinished:
                _fetch(jars, Path(unfinished), env, progress)
                progress.preparing("formatting a storage for the broker")
                _format(java, KafkaInstallation(Path(unfinished), version))
                made = cache / f"{Path(unfinished).name}.whole"
                made.mkdir()
                for part in (_JARS, FORMATTED):
                    (Path(unfinished) / part).rename(made / part)
                made.rename(target)
    except OSError as error:
        raise KafkaNotInstalled(f"Kafka cannot be kept in {cache}: {error.strerror or error}.") from error
    return KafkaInstallation(target, version)


@contextlib.contextmanager
def locked(path: Path, progress: InstallProgress) -> Iterator[None]:
    """Holds the lock file at `path`; says so where another process holds it, and waits."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.waiting("another start is preparing Kafka; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(jars: Sequence[Jar], directory: Path, env: Mapping[str, str], progress: InstallProgress) -> None:
    """Puts every jar into directory/jars. Raises KafkaNotInstalled."""
    target = directory / _JARS
    target.mkdir()
    repository = Path(env.get("M2_REPO") or Path(env.get("HOME") or Path.home()) / ".m2" / "repository")
    missing = []
    for jar in jars:
        if jar.is_at(repository / jar.path):
            shutil.copyfile(repository / jar.path, target / jar.name)
        else:
            missing.append(jar)
    if not missing:
        return
    total = sum(jar.size for jar in missing)
    progress.downloading(f"Apache Kafka {kafka_version(jars)}: {len(missing)} jars", total)
    reason = _fetch_with_jgo(missing, target, directory / "maven", progress)
    if reason is not None and shutil.which("mvn", path=env.get("PATH")):
        progress.preparing("fetching the jars with mvn")
        _fetch_with_mvn(missing, target, directory, env)
    wrong = [jar.name for jar in jars if not jar.is_at(target / jar.name)]
    if wrong:
        raise KafkaNotInstalled(
            f"Kafka's jars could not be downloaded ({reason or 'not the bytes that are expected'}; "
            f"{len(wrong)} of {len(jars)} are missing, such as {wrong[0]}). Is there a network? It is needed once. "
            f"Without one, copy the directory {cache_directory(env)} from a machine that has it, "
            "or give the address of a running Kafka in PULSETRAIN_KAFKA."
        )


def _fetch_with_jgo(jars: Sequence[Jar], target: Path, repository: Path, progress: InstallProgress) -> str | None:
    """Downloads through jgo into `target`; returns why where something is missing afterwards."""
    try:
        from jgo.config import GlobalSettings
        from jgo.constants import MAVEN_CENTRAL_URL
        from jgo.maven import MavenContext, PythonResolver
    except ImportError:
        return "jgo is not installed; pip install 'pulsetrain[local]' brings it"

    logging.getLogger("jgo").setLevel(logging.ERROR)

    @contextlib.contextmanager
    def counted(_name: str, _size: int) -> Iterator[object]:
        yield progress.downloaded

    context = MavenContext(
        resolver=PythonResolver(progress_callback=counted),
        repo_cache=repository,  # our own: an interrupted download must not stay in anybody's repository
        remote_repos={**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL},
    )

    def fetch(jar: Jar) -> str | None:
        try:
            path = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors, jgo's own RuntimeErrors
            return f"{jar.name}: {_root_cause(error)}"
        shutil.move(path, target / jar.name)
        return None

    with ThreadPoolExecutor(_DOWNLOADS_AT_A_TIME) as pool:
        return next((reason for reason in pool.map(fetch, jars) if reason is not None), None)


def _fetch_with_mvn(jars: Sequence[Jar], target: Path, directory: Path, env: Mapping[str, str]) -> None:
    """Downloads through mvn, which knows the mirrors of the user's settings; what it cannot get stays missing."""
    wanted = "".join(
        f"<dependency><groupId>{escape(jar.group)}</groupId><artifactId>{escape(jar.artifact)}</artifactId>"
        f"<version>{escape(jar.version)}</version></dependency>"
        for jar in jars
    )
    pom = directory / "pom.xml"
    pom.write_text(
        "<project><modelVersion>4.0.0</modelVersion><groupId>pulsetrain</groupId><artifactId>kafka</artifactId>"
        f"<version>1</version><dependencies>{wanted}</dependencies></project>"
    )
    command = ["mvn", "-B", "-q", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={target}"]
    with contextlib.suppress(subprocess.TimeoutExpired):  # what is missing is found by its absence
        subprocess.run(
            command, env=dict(env), timeout=600, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return str(error) or type(error).__name__


def _format(java: Java, installation: KafkaInstallation) -> None:
    """Formats a storage with Kafka's own tool and keeps what is the same for every broker."""
    storage = installation.formatted
    properties = installation.directory / "format.properties"
    properties.write_text(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:9093\n"
        "listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\ncontroller.listener.names=CONTROLLER\n"
        f"log.dirs={storage}\n"
    )
    command = [
        str(java.executable),
        "-XX:TieredStopAtLevel=1",
        "-cp",
        installation.class_path,
        "kafka.tools.StorageTool",
    ]
    answer = subprocess.run(
        [*command, "format", "-t", new_uuid(), "-c", str(properties)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if answer.returncode != 0:
        last = (answer.stderr or answer.stdout).strip().splitlines()[-3:]
        raise KafkaNotInstalled(f"Kafka's storage tool failed under {java}: {' / '.join(last)}")
    (storage / "meta.properties").unlink()


def new_uuid() -> str:
    """A random id as Kafka writes them: 128 bits in URL-safe base 64, 22 characters."""
    import base64

    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
