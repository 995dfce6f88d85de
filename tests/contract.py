"""Protobuf contracts as lines of text, so that a test can compare them with a table that people read."""

from collections.abc import Iterable, Iterator

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor, ServiceDescriptor

SCALARS = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
}


def contract(files: Iterable[FileDescriptor]) -> dict[str, str]:
    """What files of one package define, by name: fields of messages, values of enums, calls of services."""
    found: dict[str, str] = {}
    for file in files:
        for message in file.message_types_by_name.values():
            found |= dict(_messages(message))
        found |= {enum.name: _values(enum) for enum in file.enum_types_by_name.values()}
        for service in file.services_by_name.values():
            found |= _calls(service)
    return found


def _messages(message: Descriptor) -> Iterator[tuple[str, str]]:
    package = message.file.package
    fields = sorted(message.fields, key=lambda field: field.number)
    yield _short(message.full_name, package), "; ".join(_field(field, package) for field in fields)
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            yield from _messages(nested)
    for enum in message.enum_types:
        yield _short(enum.full_name, package), _values(enum)


def _field(field: FieldDescriptor, package: str) -> str:
    label = ""
    if field.is_repeated:
        label = "rep "
    elif field.containing_oneof is not None:
        # proto3 keeps the presence of a single field in a oneof of its own
        is_optional = field.containing_oneof.name == f"_{field.name}"
        label = "opt " if is_optional else f"{field.containing_oneof.name}: "
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        key, value = (_type(entry.fields_by_name[side], package) for side in ("key", "value"))
        return f"{field.number} {field.name} map<{key},{value}>"
    return f"{field.number} {field.name} {label}{_type(field, package)}"


def _type(field: FieldDescriptor, package: str) -> str:
    kind = field.message_type or field.enum_type
    return SCALARS[field.type] if kind is None else _short(kind.full_name, package)


def _values(enum: EnumDescriptor) -> str:
    return "; ".join(f"{value.number} {value.name}" for value in enum.values)


def _calls(service: ServiceDescriptor) -> dict[str, str]:
    package = service.file.package
    return {
        f"{service.name}.{method.name}": (
            f"{'stream ' if method.client_streaming else ''}{_short(method.input_type.full_name, package)} -> "
            f"{'stream ' if method.server_streaming else ''}{_short(method.output_type.full_name, package)}"
        )
        for method in service.methods
    }


def _short(full_name: str, package: str) -> str:
    return full_name.removeprefix(f"{package}.")
