"""The interop harness as a person starts it: compose/interop.yml, up to the runner's end.

No published image can be relied on here. STRFRY_IMAGE names strfry's if there is one; else an image is made of the
program that STRFRY_BIN names, or of rust-nostr's relay and client, which take strfry's commands (tests/interop).
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import nostr_sdk
import pytest
from docker import DockerClient
from tests.image.conftest import ROOT, build
from tests.image.project import project
from tests.interop.strfry_side import STRFRY_BIN

CASES_S: Final = 900
BRIEF: Final = "directions,deletions,replaced,killed,three_ways,background"
"""The cases for what only stands for strfry; tests/interop does all of them with it."""

POLL_S: Final = 0.5
STRFRY_IMAGE: Final = "STRFRY_IMAGE"
KEPT_LIBRARIES: Final = ("libc.so", "libm.so", "libpthread.so", "libdl.so", "librt.so", "libresolv.so")
"""Parts of the C library, which the image has."""

FROM_PROGRAM: Final = '#!/bin/sh\nLD_LIBRARY_PATH=/app/lib exec /app/bin/strfry "$@"\n'
FROM_RUST_NOSTR: Final = '#!/bin/sh\nPYTHONPATH=/app/lib exec python /app/bin/rust_nostr.py "$@"\n'


def copy_program(program: Path, app: Path) -> str:
    """Copies a program with the libraries it is linked with; the script that runs it."""
    shutil.copy(program, app / "bin/strfry")
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for name, path in re.findall(r"(\S+) => (/\S+)", linked):
        if not name.startswith(KEPT_LIBRARIES):
            shutil.copy(path, app / "lib" / name)
    return FROM_PROGRAM


def copy_rust_nostr(app: Path) -> str:
    """Copies rust-nostr and its command line; the script that runs it."""
    source = Path(nostr_sdk.__file__).parent
    shutil.copytree(source, app / "lib" / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests/interop/rust_nostr.py", app / "bin")
    return FROM_RUST_NOSTR


@pytest.fixture
def strfry_image(engine: DockerClient, image: str, tmp_path: Path) -> str:
    """strfry's image, or what stands for it."""
    if given := os.environ.get(STRFRY_IMAGE):
        return given
    context = tmp_path / "strfry"
    app = context / "app"
    for part in ("bin", "lib", "strfry-db"):
        (app / part).mkdir(parents=True)
    program = os.environ.get(STRFRY_BIN)
    script = app / "strfry"
    script.write_text(copy_program(Path(program), app) if program else copy_rust_nostr(app))
    script.chmod(0o755)
    shutil.copy(Path(__file__).with_name("strfry.Dockerfile"), context / "Dockerfile")
    return build(engine, path=context, tag="orly-test-strfry", buildargs={"BASE": image})


def test_every_case_between_the_containers(engine: DockerClient, image: str, strfry_image: str, tmp_path: Path) -> None:
    is_strfry = any(name in os.environ for name in (STRFRY_IMAGE, STRFRY_BIN))
    variables = {
        "ORLY_IMAGE": image,
        "STRFRY_IMAGE": strfry_image,
        "INTEROP_TESTS": str(ROOT / "tests"),
        "INTEROP_ONLY": "" if is_strfry else BRIEF,
    }
    with project(engine, tmp_path / "compose", "interop.yml", variables=variables) as compose:
        compose.run("up", "-d")
        labels = [f"com.docker.compose.project={compose.name}", "com.docker.compose.service=runner"]
        (runner,) = engine.containers.list(all=True, filters={"label": labels})
        end_s = time.monotonic() + CASES_S
        while True:
            runner.reload()
            if runner.status == "exited":
                break
            assert time.monotonic() < end_s, f"the runner was still there after {CASES_S} s"
            time.sleep(POLL_S)
        said = runner.logs().decode(errors="replace")
        sys.stdout.write(said)
        assert runner.attrs["State"]["ExitCode"] == 0, said
        assert " 0 cases failed" in said
