"""Apache Kafka's jars: fetched once through jgo, checked against the committed kafka.lock, kept outside the clone.

The lock names every jar with its size and SHA-256 and holds no address: which repository or mirror is asked is the
machine's business (jgo's configuration file). The cache is filled in a folder beside its final place and then renamed,
so it is either complete or absent.
"""

import configparser
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from forebay_cli.embedded_kafka.errors import EmbeddedKafkaError

if TYPE_CHECKING:
    from jgo.maven import Artifact, MavenContext

KAFKA_VERSION = "4.1.1"
# kafka-clients is named as well because jgo's mediation would pick an older one than the broker needs.
ROOTS = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    f"org.apache.kafka:kafka-clients:{KAFKA_VERSION}",
    "org.slf4j:slf4j-simple:1.7.36",
)
LOCK_FILE = Path(__file__).with_name("kafka.lock")
LOCK_HEADER = """\
# Every jar of the embedded Kafka: coordinate, size in bytes, SHA-256.
# Made by `python -m forebay_cli.embedded_kafka lock`; checked whenever a jar is fetched.
"""
DOWNLOADS_AT_ONCE = 4
ATTEMPTS = 3
REQUEST_TIMEOUT_SECONDS = 30

Progress = Callable[[str], None]


class Jar(NamedTuple):
    """One locked jar; the coordinate is group:artifact:version."""

    coordinate: str
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        """The jar's name in a Maven repository, which is unique among the locked ones."""
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def parse_lock(text: str) -> tuple[Jar, ...]:
    """Return the jars that the text of a lock file names."""
    lines = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return tuple(Jar(coordinate, int(size), sha256) for coordinate, size, sha256 in lines)


def render_lock(jars: tuple[Jar, ...]) -> str:
    """Return the text of a lock file, sorted so that an upgrade is a readable diff."""
    return LOCK_HEADER + "".join(f"{jar.coordinate} {jar.size} {jar.sha256}\n" for jar in sorted(jars))


def cache_folder() -> Path:
    """Return the folder that keeps downloads between runs: FOREBAY_CACHE, or the user's cache folder."""
    chosen = os.environ.get("FOREBAY_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forebay"


def ensure_installed(on_progress: Progress = lambda _text: None) -> Path:
    """Return the folder with Kafka's jars, downloading them first where they are not there yet.

    Safe for several processes at once: the first one downloads, the others wait.

    Raises:
        EmbeddedKafkaError: a jar cannot be downloaded or is not the locked one, or the disk is full.
    """
    lock = LOCK_FILE.read_text()
    jars = parse_lock(lock)
    digest = hashlib.sha256(lock.encode()).hexdigest()
    folder = cache_folder().absolute() / f"kafka-{KAFKA_VERSION}-{digest[:12]}"
    if _is_complete(folder, jars):
        return folder
    try:
        with _alone(folder.with_name(f"{folder.name}.lock"), on_progress):
            if not _is_complete(folder, jars):
                _fill(folder, jars, on_progress)
    except OSError as error:
        raise _cache_error(folder.parent, error) from error
    return folder


def _is_complete(folder: Path, jars: tuple[Jar, ...]) -> bool:
    try:
        return all((folder / jar.file_name).stat().st_size == jar.size for jar in jars)
    except OSError:
        return False


@contextmanager
def _alone(lock_file: Path, on_progress: Progress) -> Iterator[None]:
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_progress(f"waiting for another process that downloads Kafka {KAFKA_VERSION}")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _fill(folder: Path, jars: tuple[Jar, ...], on_progress: Progress) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    partial.mkdir()
    repository = partial / "repository"
    try:
        context = _maven(repository)
        _download_all(context, jars, partial, on_progress)
        shutil.rmtree(repository)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _download_all(context: "MavenContext", jars: tuple[Jar, ...], target: Path, on_progress: Progress) -> None:
    pool = ThreadPoolExecutor(DOWNLOADS_AT_ONCE)
    try:
        downloads = [pool.submit(_download, context, jar, target) for jar in jars]
        for done, download in enumerate(as_completed(downloads), start=1):
            download.result()
            on_progress(f"downloading Kafka {KAFKA_VERSION}: {done} of {len(jars)} jars")
    finally:
        pool.shutdown(cancel_futures=True)


def _download(context: "MavenContext", jar: Jar, target: Path) -> None:
    group, artifact, version = jar.coordinate.split(":")
    path = _fetch(context.project(group, artifact).at_version(version).artifact(), jar.coordinate)
    with path.open("rb") as content:
        actual = hashlib.file_digest(content, "sha256").hexdigest()
    if actual != jar.sha256:
        raise EmbeddedKafkaError(
            f"refused {jar.coordinate}: its SHA-256 is {actual[:16]}..., the lock file wants {jar.sha256[:16]}...; "
            "the repository or proxy in between altered it: correct the mirror in jgo's configuration file and try "
            "again, or use an existing broker with --bootstrap HOST:PORT"
        )
    path.rename(target / jar.file_name)


def _fetch(artifact: "Artifact", coordinate: str) -> Path:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return artifact.resolve()
        except (OSError, RuntimeError) as error:  # what jgo lets through: requests' errors are OSErrors
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            if artifact.cached_path:
                artifact.cached_path.unlink(missing_ok=True)  # jgo would take half a file for a whole one
            if attempt == ATTEMPTS:
                # Never the error's own text: it may hold a mirror's address with a password in it.
                reason = type(error).__name__ if isinstance(error, OSError) else "no repository has it"
                raise EmbeddedKafkaError(
                    f"cannot download {coordinate} ({reason}): the first run needs the network, or a mirror named "
                    "under [repositories] in jgo's configuration file; or use an existing broker with "
                    "--bootstrap HOST:PORT"
                ) from error
        time.sleep(attempt)
    raise AssertionError("unreachable")


def _maven(repository: Path) -> "MavenContext":
    # Imported here: it takes longer than a whole look at a filled cache.
    from jgo.config import GlobalSettings  # noqa: PLC0415
    from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415
    from jgo.maven import MavenContext  # noqa: PLC0415

    # jgo warns about checksums that a repository gets wrong; ours is the one that decides.
    logging.getLogger("jgo").setLevel(logging.ERROR)
    try:
        configured = GlobalSettings.load().repositories
    except configparser.Error as error:
        raise EmbeddedKafkaError(f"jgo's configuration file cannot be read: {error.message}; correct it") from error
    remotes = configured if "central" in configured else {**configured, "central": MAVEN_CENTRAL_URL}
    return MavenContext(repo_cache=repository, remote_repos=remotes, timeout=REQUEST_TIMEOUT_SECONDS)


def _cache_error(folder: Path, error: OSError) -> EmbeddedKafkaError:
    return EmbeddedKafkaError(
        f"cannot keep Kafka's jars in {folder}: {error.strerror or error}; free some space there or choose another "
        "folder with the environment variable FOREBAY_CACHE"
    )


def resolve_lock(repository: Path) -> tuple[Jar, ...]:
    """Return what the newest resolution of ROOTS gives, with the hashes of what was downloaded into the folder.

    For maintainers only: everyone else takes the committed lock.
    """
    context = _maven(repository)
    named, transitive = context.resolver.resolve([context.create_dependency(root) for root in ROOTS])
    wanted = [*named, *(one for one in transitive if one.scope in ("compile", "runtime"))]
    return tuple(_locked(dependency.artifact) for dependency in wanted)


def _locked(artifact: "Artifact") -> Jar:
    content = artifact.resolve().read_bytes()
    coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
    return Jar(coordinate, len(content), hashlib.sha256(content).hexdigest())
