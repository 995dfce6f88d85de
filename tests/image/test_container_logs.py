"""The container's standard output: whole lines, each under the name of its service."""

import json
import re
from typing import Final

from docker import DockerClient
from tests.image.clients import notes, publish, stored_ids
from tests.image.container import appliance
from tests.image.test_serving import TWO_WORKERS, grace_s

LINE: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (launcher|orly-db|orly-[01]) "
    r"+(TRACE|DEBUG|INFO|WARN|ERROR|FATAL) +\S+ \| .*"
)
SERVICES: Final = {"launcher", "orly-db", "orly-0", "orly-1"}


def test_every_line_is_whole_and_names_its_service(engine: DockerClient, image: str) -> None:
    variables = {**TWO_WORKERS, "ORLY_LOG_LEVEL": "trace", "ORLY_DB_LOG_LEVEL": "trace"}
    with appliance(engine, image, environment=variables) as relay:
        for key in range(4):
            publish(relay.url, notes(100, key=key))
        stored_ids(relay.url)
        relay.stop(grace_s=grace_s())
        lines = relay.logs().splitlines()
    matches = [(line, LINE.fullmatch(line)) for line in lines]
    assert [line for line, match in matches if match is None] == []
    assert {match[1] for _, match in matches if match} == SERVICES


def test_json_is_one_object_a_line(engine: DockerClient, image: str) -> None:
    with appliance(engine, image, environment={**TWO_WORKERS, "ORLY_LOG_FORMAT": "json"}) as relay:
        publish(relay.url, notes(10))
        relay.stop(grace_s=grace_s())
        records = [json.loads(line) for line in relay.logs().splitlines()]
    assert {record["service"] for record in records} == SERVICES
    for record in records:
        assert {"time", "service", "level", "logger", "message"} <= record.keys()
