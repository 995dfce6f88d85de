"""The compose files as an operator copies them: up, used, down."""

import asyncio
import json
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from docker import DockerClient
from tests.factory import KEYS, SECRETS, make_event
from tests.image.clients import information, notes, publish, stored_ids
from tests.image.conftest import build
from tests.image.container import HARDENED, Appliance, wait_until
from tests.image.project import Project, project
from tests.image.test_serving import grace_s
from tests.process import free_port
from tests.wsclient import DEADLINE_S, Client
from websockets.asyncio.client import connect as ws_connect

LOCAL_CA: Final = "/data/caddy/pki/authorities/local/root.crt"
CLAIMED: Final = "203.0.113.9"
DEBUG_LOGS: Final = "services: {orly: {environment: {ORLY_LOG_LEVEL: debug}}}"


def test_up_serves_and_down_keeps_the_events(engine: DockerClient, image: str, tmp_path: Path) -> None:
    variables = {"ORLY_IMAGE": image, "ORLY_PUBLISH": f"127.0.0.1:{free_port()}"}
    with project(engine, tmp_path, "compose.yml", variables=variables) as compose:
        compose.run("up", "-d")
        relay = compose.appliance()
        host = relay.container.attrs["HostConfig"]
        assert host["ReadonlyRootfs"] is HARDENED["read_only"]
        assert host["CapDrop"] == HARDENED["cap_drop"]
        assert host["SecurityOpt"] == HARDENED["security_opt"]
        assert relay.container.attrs["Config"]["StopTimeout"] == grace_s()
        relay.wait_healthy()
        ids = publish(relay.url, notes(20))
        compose.run("down")
        compose.run("up", "-d")
        relay = compose.appliance()
        relay.wait_healthy()
        assert stored_ids(relay.url) == ids
        relay.container.stop()  # with the grace period of the file
        assert relay.wait_exit() == 0


def test_secrets_from_files_on_top(engine: DockerClient, image: str, tmp_path: Path) -> None:
    variables = {"ORLY_IMAGE": image, "ORLY_PUBLISH": f"127.0.0.1:{free_port()}"}
    secret = tmp_path / "secrets/relay_secret_key"
    secret.parent.mkdir()
    secret.write_text(SECRETS[2].hex())
    secret.chmod(0o444)
    with project(engine, tmp_path, "compose.yml", "compose.secrets.yml", variables=variables) as compose:
        compose.run("up", "-d")
        relay = compose.appliance()
        relay.wait_healthy()
        assert information(relay.port)["self"] == KEYS[2]


@pytest.fixture(scope="module")
def caddy(engine: DockerClient) -> str:
    """An image with Caddy in it."""
    return build(engine, path=Path(__file__).parent, tag="orly-test-caddy", dockerfile="caddy.Dockerfile")


@pytest.fixture
def behind_caddy(engine: DockerClient, image: str, caddy: str, tmp_path: Path) -> Iterator[tuple[Project, int]]:
    """The relay behind Caddy, for the name `localhost`, for which Caddy is its own authority; and the HTTPS port."""
    https = free_port()
    variables = {
        "ORLY_IMAGE": image,
        "CADDY_IMAGE": caddy,
        "RELAY_DOMAIN": "localhost",
        "HTTP_PUBLISH": f"127.0.0.1:{free_port()}",
        "HTTPS_PUBLISH": f"127.0.0.1:{https}",
    }
    (tmp_path / "debug.yml").write_text(DEBUG_LOGS)
    with project(engine, tmp_path, "compose.caddy.yml", "debug.yml", variables=variables) as compose:
        compose.run("up", "-d")
        compose.appliance().wait_healthy()
        yield compose, https


def test_caddy_adds_tls_and_says_who_the_client_is(behind_caddy: tuple[Project, int]) -> None:
    compose, https = behind_caddy
    front, relay = compose.appliance("caddy"), compose.appliance()
    authority = wait_until(lambda: _read(front, LOCAL_CA), "Caddy to have its authority")
    wait_until(lambda: _accepts(https), "Caddy to listen")
    trust = ssl.create_default_context(cadata=authority)

    async def main() -> None:
        event = make_event(content="through the proxy")
        claim = {"X-Forwarded-For": CLAIMED}
        url = f"wss://localhost:{https}/"
        async with ws_connect(
            url, ssl=trust, additional_headers=claim, open_timeout=DEADLINE_S, proxy=None
        ) as connection:
            client = Client(connection)
            await client.send("REQ", "live", {"kinds": [1]})
            await client.receive_until("EOSE")
            await client.send("EVENT", json.loads(event.raw))
            answers = sorted([await client.receive(), await client.receive()])
            assert [answer[0] for answer in answers] == ["EVENT", "OK"]
            assert answers[1][2] is True

    asyncio.run(main())
    networks = front.container.attrs["NetworkSettings"]["Networks"]
    ((gateway, own),) = [(network["Gateway"], network["IPAddress"]) for network in networks.values()]
    seen = set(re.findall(r"connection \d+ from (\S+) is open", relay.logs()))
    assert seen == {gateway}, "where Docker forwards from, not the proxy and not what the client claims"
    assert not seen & {own, CLAIMED}


def _read(running: Appliance, path: str) -> str:
    code, output = running.container.exec_run(["cat", path])
    assert isinstance(output, bytes)
    return output.decode() if code == 0 else ""


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
