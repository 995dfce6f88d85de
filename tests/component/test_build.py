"""What builds make: generated code in the checkout, wheels and source distributions that have all they need."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from setuptools.errors import ExecError

ROOT = Path(__file__).parents[2]
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "supervisord.conf.j2")
PROTO = 'syntax = "proto3"; package a.v1; message Thing { int32 size = 1; }'


@pytest.fixture
def build() -> ModuleType:
    """The module setup.py."""
    spec = importlib.util.spec_from_file_location("orly_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one proto, which is the current directory."""
    (tmp_path / "proto/a/v1").mkdir(parents=True)
    (tmp_path / "proto/a/v1/thing.proto").write_text(PROTO)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout as it is cloned, without anything generated."""
    copy = tmp_path / "checkout"
    skipped = shutil.ignore_patterns("__pycache__", "pb", "*.egg-info")
    for name in ("app", "proto", "packaging"):
        shutil.copytree(ROOT / name, copy / name, ignore=skipped)
    for name in SOURCES:
        shutil.copyfile(ROOT / name, copy / name)
    return copy


def run_build(checkout: Path, kind: str) -> Path:
    """The wheel or the source distribution that the build backend makes of a checkout."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}('made')"
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True, stdout=subprocess.DEVNULL)
    (path,) = (checkout / "made").iterdir()
    return path


def test_code_is_generated_once_and_again_when_a_proto_changes(build: ModuleType, made_up: Path) -> None:
    files = build.generate(Path("src"))
    assert [file.name for file in files] == ["thing_pb2.py", "thing_pb2.pyi", "thing_pb2_grpc.py"]
    assert {file.parent for file in files} == {Path("src/orly/pb/a/v1")}
    before = {file: file.stat().st_ino for file in files}
    assert build.generate(Path("src")) == files
    assert {file: file.stat().st_ino for file in files} == before, "what did not change stays"
    (made_up / "proto/a/v1/thing.proto").write_text(PROTO.replace("size", "length"))
    build.generate(Path("src"))
    assert "length" in files[0].read_text()
    assert sorted(Path("src/orly/pb/a/v1").iterdir()) == sorted(files), "nothing unfinished is left"


def test_what_a_removed_proto_left_is_removed(build: ModuleType, made_up: Path) -> None:
    (made_up / "proto/a/v1/other.proto").write_text('syntax = "proto3"; package a.v1;')
    assert len(build.generate(Path("src"))) == 6
    Path("src/orly/pb/.generated").touch()
    (made_up / "proto/a/v1/other.proto").unlink()
    files = build.generate(Path("src"))
    left = {path for path in Path("src").rglob("*") if path.is_file()}
    assert left == {*files, Path("src/orly/pb/.generated")}


def test_a_proto_that_does_not_compile_changes_nothing(
    build: ModuleType, made_up: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = build.generate(Path("src"))
    before = [file.read_bytes() for file in files]
    (made_up / "proto/a/v1/thing.proto").write_text("nonsense")
    with pytest.raises(ExecError, match="the protos cannot be compiled"):
        build.generate(Path("src"))
    assert "proto/a/v1/thing.proto:1:1: " in capfd.readouterr().err
    assert [file.read_bytes() for file in files] == before


def test_a_wheel_has_the_generated_code_and_the_template(checkout: Path) -> None:
    stale = checkout / "build/lib/orly/removed_long_ago.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    with zipfile.ZipFile(run_build(checkout, "wheel")) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        template = wheel.read("orly/appliance/supervisord.conf.j2")
        (scripts,) = (wheel.read(name).decode() for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    assert template == (ROOT / "supervisord.conf.j2").read_bytes()
    stems = [path.relative_to(ROOT / "proto").with_suffix("") for path in (ROOT / "proto").rglob("*.proto")]
    pb = {f"orly/pb/{stem}{suffix}" for stem in stems for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")}
    modules = {
        str(path.relative_to(checkout / "app"))
        for path in (checkout / "app").rglob("*")
        if path.is_file() and "orly.egg-info" not in path.parts
    }
    assert names == {*modules, *pb, "orly/appliance/supervisord.conf.j2"}
    assert not (checkout / "app/orly/pb").exists(), "a wheel leaves the checkout alone"
    for script in ("orly = ", "orly-db = ", "orly-db-badger = ", "orly-launcher = ", "orly-sync-negentropy = "):
        assert script in scripts


def test_a_source_distribution_builds_the_same_wheel(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xf", run_build(checkout, "sdist"), "-C", tmp_path / "unpacked"], check=True)
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert (unpacked / "packaging/requirements.lock").is_file()
    shutil.rmtree(checkout / "made")
    with zipfile.ZipFile(run_build(checkout, "wheel")) as one, zipfile.ZipFile(run_build(unpacked, "wheel")) as other:
        assert one.namelist() == other.namelist()
        assert {entry.CRC for entry in one.infolist()} == {entry.CRC for entry in other.infolist()}
