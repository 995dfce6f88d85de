"""What a build adds to the checkout: code generated from proto/, and the template of supervisord's configuration.

Everything else about the build is in pyproject.toml.
"""

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.build_py import build_py
from setuptools.errors import ExecError

PROTOS = Path("proto")
GENERATED = Path("orly/pb")
"""Where a source root has the generated package, which is also the path by which the protos import each other."""

TEMPLATE = Path("supervisord.conf.j2")
TEMPLATE_IN_PACKAGE = Path("orly/appliance") / TEMPLATE


def generate(root: Path) -> list[Path]:
    """Generate code from every proto into `orly/pb` below `root`, and remove what earlier protos left there.

    Files that would not change stay as they are; others are replaced at once, so that a program that is being started
    meanwhile finds each of them whole.

    Raises:
        ExecError: The compiler refused a proto; it has said why on standard error.
    """
    from grpc_tools import protoc  # only builds have it

    names = sorted(str(GENERATED / path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    with TemporaryDirectory() as directory:
        outputs = [f"--{kind}_out={directory}" for kind in ("python", "grpc_python", "pyi")]
        if protoc.main(["protoc", f"-I{GENERATED}={PROTOS}", *outputs, *names]) != 0:
            raise ExecError("the protos cannot be compiled")
        made = Path(directory)
        files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
        for file in files:
            _replace(root / file, (made / file).read_bytes())
    for path in (root / GENERATED).rglob("*_pb2*.py*"):
        if path.parent.name != "__pycache__" and path.relative_to(root) not in files:
            path.unlink()
    return [root / file for file in files]


def _replace(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


class BuildProto(Command):
    """`python setup.py build_proto`: generate code into the checkout."""

    description = "generate app/orly/pb from proto/"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        """There are no options."""

    def finalize_options(self) -> None:
        """There are no options."""

    def run(self) -> None:
        """Generate."""
        generate(Path("app"))


class BuildPy(build_py):
    """Puts generated code into the checkout for an editable install, and with the template into a wheel otherwise."""

    _added: tuple[str, ...] = ()

    def run(self) -> None:
        """Build."""
        if self.editable_mode:
            super().run()
            generate(Path("app"))
            return
        target = Path(self.build_lib)
        shutil.rmtree(target / "orly", ignore_errors=True)  # modules that are no more
        super().run()
        template = target / TEMPLATE_IN_PACKAGE
        template.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(TEMPLATE, template)
        self._added = tuple(map(str, (*generate(target), template)))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """The files of the build."""
        return [*super().get_outputs(include_bytecode), *self._added]


if __name__ == "__main__":
    setup(cmdclass={"build_proto": BuildProto, "build_py": BuildPy})
