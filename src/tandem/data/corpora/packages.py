"""Downloads packages with the ordinary client of their registry; nothing from them is installed or run."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def pip_wheel(requirement: str, file_name: str, sha256: str, downloads: Path) -> Path:
    """The wheel `file_name` of a pinned requirement, downloaded once and checked against its hash.

    Raises:
        ValueError: pip fails (its last line is quoted) or the file has another hash.
    """
    wheel = downloads / file_name
    if not wheel.is_file():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--no-input"]
        downloads.mkdir(parents=True, exist_ok=True)
        _run([*command, "--disable-pip-version-check", "--dest", str(downloads), requirement], requirement)
    return _checked(wheel, sha256, requirement)


def npm_tarball(requirement: str, file_name: str, sha256: str, downloads: Path) -> Path:
    """The tarball `file_name` of a pinned npm package, downloaded once and checked against its hash.

    Raises:
        ValueError: npm is missing or fails, or the file has another hash.
    """
    tarball = downloads / file_name
    if not tarball.is_file():
        _require("npm", requirement, "install Node.js (Debian: apt install npm)")
        downloads.mkdir(parents=True, exist_ok=True)
        _run(["npm", "pack", "--silent", "--pack-destination", str(downloads), requirement], requirement)
    return _checked(tarball, sha256, requirement)


def debian_archive(package: str, downloads: Path) -> Path:
    """The `.deb` of a Debian package, in the version that this system's apt knows.

    Raises:
        ValueError: apt-get is missing or fails (its last line is quoted).
    """
    archive = downloads / f"{package}.deb"
    if not archive.is_file():
        _require("apt-get", package, "use a Debian or Ubuntu system, or another corpus")
        downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads) as folder:
            _run(["apt-get", "download", "-q", package], package, directory=Path(folder))
            [found] = Path(folder).glob("*.deb")
            found.replace(archive)
    return archive


@contextmanager
def debian_files(package: str, downloads: Path) -> Iterator[Path]:
    """Yields a temporary directory with the files of a Debian package, documents below `usr/share/doc`.

    Raises:
        ValueError: the package cannot be downloaded, or dpkg-deb is missing or fails.
    """
    archive = debian_archive(package, downloads)
    _require("dpkg-deb", package, "use a Debian or Ubuntu system, or another corpus")
    with tempfile.TemporaryDirectory() as folder:
        _run(["dpkg-deb", "-x", str(archive), folder], package)
        yield Path(folder)


def _require(tool: str, package: str, remedy: str) -> None:
    if shutil.which(tool) is None:
        raise ValueError(f"corpus.tool={tool} is not on PATH, and {package} is fetched with it; {remedy}")


def _run(command: Sequence[str], package: str, directory: Path | None = None) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        tool = "pip" if "pip" in command else command[0]
        raise ValueError(
            f"corpus.package={package} could not be downloaded with {tool} ({lines[-1]}); "
            f"check that {tool} works and that its package index has it"
        )


def _checked(path: Path, sha256: str, package: str) -> Path:
    if not path.is_file():
        raise ValueError(f"corpus.package={package} came without the file {path.name}; delete {path.parent} and retry")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(f"corpus.file={path} has SHA-256 {found}, not {sha256}; delete the file and fetch it again")
    return path
