"""The protos are the contract of the services, and the generated code is made of them as they are now."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc
from tests.contract import contract

import orly

ROOT = Path(__file__).parents[2]
GENERATED = Path(orly.__file__).parent / "pb"
PROTOS = sorted(path.relative_to(ROOT / "proto") for path in (ROOT / "proto").rglob("*.proto"))
TABLE = ROOT / "tests/vectors/protos.txt"
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
PACKAGES = sorted({".".join(path.parts[:-1]) for path in PROTOS})


def generated(proto: Path, suffix: str = "_pb2") -> ModuleType:
    """The module that was generated from a proto."""
    return importlib.import_module(".".join(("orly.pb", *proto.with_suffix("").parts)) + suffix)


def expected() -> dict[str, dict[str, str]]:
    """The table of the contract, by package and name."""
    packages: dict[str, dict[str, str]] = {}
    package = ""
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            package = line.strip("[]")
            packages[package] = {}
        elif line and not line.startswith("#"):
            name, _, meaning = line.partition(" =")
            assert name not in packages[package], f"{name} stands twice in {TABLE.name}"
            packages[package][name] = meaning.strip()
    return packages


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileDescriptorProto]:
    """What the compiler makes of the protos, by file name."""
    path = tmp_path_factory.mktemp("protos") / "all"
    names = [f"orly/pb/{proto}" for proto in PROTOS]
    assert protoc.main(["protoc", f"-Iorly/pb={ROOT / 'proto'}", f"--descriptor_set_out={path}", *names]) == 0
    found = FileDescriptorSet.FromString(path.read_bytes())
    return {file.name: file for file in found.file}


def without_json_names(file: FileDescriptorProto) -> FileDescriptorProto:
    """A file's descriptor less what the compiler puts into descriptor sets only."""

    def strip(message: DescriptorProto) -> None:
        for field in message.field:
            field.ClearField("json_name")
        for nested in message.nested_type:
            strip(nested)

    copy = FileDescriptorProto()
    copy.CopyFrom(file)
    for message in copy.message_type:
        strip(message)
    return copy


@pytest.mark.parametrize("proto", PROTOS, ids=str)
def test_generated_code_is_that_of_the_proto(proto: Path, compiled: dict[str, FileDescriptorProto]) -> None:
    has = FileDescriptorProto.FromString(generated(proto).DESCRIPTOR.serialized_pb)
    assert without_json_names(has) == without_json_names(compiled[f"orly/pb/{proto}"]), "run: make proto"


def test_nothing_else_is_generated() -> None:
    wanted = {proto.with_name(proto.stem + suffix) for proto in PROTOS for suffix in SUFFIXES}
    found = {path.relative_to(GENERATED) for path in GENERATED.rglob("*_pb2*.py*") if "__pycache__" not in path.parts}
    assert found == wanted, "run: make proto"


@pytest.mark.parametrize("proto", PROTOS, ids=str)
def test_a_package_is_where_its_name_says(proto: Path) -> None:
    assert generated(proto).DESCRIPTOR.package == ".".join(proto.parts[:-1])


@pytest.mark.parametrize("package", PACKAGES)
def test_the_contract(package: str) -> None:
    files = [generated(proto).DESCRIPTOR for proto in PROTOS if ".".join(proto.parts[:-1]) == package]
    assert contract(files) == expected()[package], f"a change of the contract is one of {TABLE.relative_to(ROOT)} too"


def test_the_table_has_no_other_package() -> None:
    assert sorted(expected()) == PACKAGES


@pytest.mark.parametrize("proto", [proto for proto in PROTOS if proto.name == "service.proto"], ids=str)
def test_stubs_and_servicers_have_every_call(proto: Path) -> None:
    module = generated(proto, "_pb2_grpc")
    (service,) = generated(proto).DESCRIPTOR.services_by_name.values()
    calls = {method.name for method in service.methods}
    servicer = getattr(module, f"{service.name}Servicer")
    assert {name for name in vars(servicer) if not name.startswith("_")} == calls
    assert callable(getattr(module, f"add_{service.name}Servicer_to_server"))
    assert callable(getattr(module, f"{service.name}Stub"))


def test_each_service_can_be_asked_whether_it_is_ready() -> None:
    services = {name: calls for name, calls in expected().items() if any("->" in meaning for meaning in calls.values())}
    assert len(services) == 6
    for calls in services.values():
        (ready,) = (meaning for name, meaning in calls.items() if name.endswith("Service.Ready"))
        assert ready.endswith("ReadyResponse")
