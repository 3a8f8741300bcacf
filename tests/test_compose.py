"""Dockerfile and docker-compose.yml, held against the code: no Docker is needed to see them wrong."""

from __future__ import annotations

import re
import shlex
import tomllib
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from candlewick import config, feeds
from candlewick.kafka import settings
from candlewick.kafka.jars import KAFKA_VERSION
from candlewick.web.access import OPEN

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
WORKERS = [name for name in OURS if SERVICES[name]["command"] == ["worker"]]
PROXY: str = (ROOT / COMPOSE["configs"]["proxy"]["file"]).read_text(encoding="utf-8")
PROMETHEUS: dict[str, Any] = yaml.safe_load(
    (ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8")
)
WATCHING = ["prometheus", "grafana"]

ADDRESS = re.compile(r"(?:[a-z]+://)?([a-z][a-z0-9-]*):([0-9]+)/?")
MINUTES = {"s": 1, "m": 60}


TOKEN = "what-the-caller-chose"
ASKED_FOR = re.compile(r"\$\{CANDLEWICK_TOKEN:\?[^}]*\}")


def environment(name: str) -> dict[str, str]:
    """Return a service's environment as it is when the caller's own has only what is asked for."""
    values = {
        key: ASKED_FOR.sub(TOKEN, value) for key, value in SERVICES[name].get("environment", {}).items()
    }
    return {key: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for key, value in values.items()}


def settings_of(name: str) -> config.Settings:
    return config.load({**image_environment(), **environment(name)})


@cache
def dockerfile() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, as (name, the rest)."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def last_stage() -> list[tuple[str, str]]:
    begin = max(index for index, (name, _) in enumerate(dockerfile()) if name == "FROM")
    return dockerfile()[begin:]


def image_environment() -> dict[str, str]:
    words = [word for name, rest in last_stage() if name == "ENV" for word in shlex.split(rest)]
    return dict(word.split("=", 1) for word in words)


def is_pinned(image: str) -> bool:
    """Say whether an image's tag begins with a whole version: 1.2.3, or v1.2.3."""
    return re.search(r":v?[0-9]+\.[0-9]+\.[0-9]+(-[a-z0-9.-]+)?\Z", image) is not None


# The image.


def test_stages_begin_with_one_pinned_python_that_the_project_supports() -> None:
    images = {rest.split()[0] for name, rest in dockerfile() if name == "FROM"}
    assert len(images) == 1
    image = images.pop()
    assert image.startswith("python:")
    assert "slim" in image
    assert is_pinned(image)


def test_the_image_holds_every_package_of_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    copied = {word.rstrip("/") for name, rest in dockerfile() if name == "COPY" for word in rest.split()[:-1]}
    needed = packages | {"pyproject.toml", "requirements.lock", project["project"]["readme"], "LICENSE"}
    assert needed <= copied
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert needed == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in needed)


def test_a_folder_keeps_its_name_in_the_image() -> None:
    # `COPY models producers ./` would pour both into one folder.
    for name, rest in dockerfile():
        if name == "COPY" and rest.split()[0].endswith("/"):
            assert rest.split()[0] == rest.split()[1]


def test_uv_is_the_same_version_in_image_and_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    version = re.search(r"^UV_VERSION := (\S+)$", makefile, re.MULTILINE)
    assert version
    assert f"uv=={version[1]} " in " ".join(rest for _, rest in dockerfile())


def test_versions_and_hashes_in_the_image_come_from_the_lock() -> None:
    for name, rest in dockerfile():
        for command in rest.split("&&") if name == "RUN" else ():
            if "uv pip install" in command:
                assert "--constraints requirements.lock" in command or "--no-deps" in command, command


def test_the_image_runs_as_a_fixed_user_that_is_not_root_and_owns_the_data() -> None:
    instructions = dict(last_stage())
    user, _, group = instructions["USER"].partition(":")
    assert int(user) > 1000
    assert int(group) > 1000
    commands = " ".join(rest for name, rest in last_stage() if name == "RUN")
    assert f"--uid {user}" in commands
    assert f"--owner={user} --group={group}" in commands


def test_the_image_writes_to_its_volume_only() -> None:
    instructions = dict(last_stage())
    assert image_environment()["PYTHONDONTWRITEBYTECODE"] == "1"
    assert instructions["VOLUME"] == '["/data"]'
    assert image_environment()["CANDLEWICK_DATA_DIR"] == "/data" == instructions["WORKDIR"]
    assert {name for name in image_environment() if name.startswith(config.PREFIX)} == {"CANDLEWICK_DATA_DIR"}


def test_the_image_starts_our_command_and_names_the_port_of_the_views() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    instructions = dict(last_stage())
    assert yaml.safe_load(instructions["ENTRYPOINT"]) == list(project["project"]["scripts"])
    assert instructions["EXPOSE"] == str(config.Settings().port)


# What the services run.


@pytest.mark.parametrize("name", OURS)
def test_commands_exist_and_take_the_options_that_they_are_given(name: str) -> None:
    from candlewick.cli import main

    command, *arguments = SERVICES[name]["command"]
    assert command in main.commands
    parser = main.commands[command].make_parser(click.Context(main.commands[command]))
    parser.parse_args([str(argument) for argument in arguments])  # raises on an option that is not there


def test_the_cluster_is_a_market_a_producer_and_two_workers() -> None:
    commands = sorted(SERVICES[name]["command"][0] for name in OURS)
    assert commands == ["mock-exchange", "produce", "worker", "worker"]


@pytest.mark.parametrize("name", OURS)
def test_variables_are_settings_and_their_values_are_allowed(name: str) -> None:
    known = {config.env_name(field) for field in config.Settings.model_fields}
    assert environment(name).keys() <= known
    assert all(isinstance(value, str) for value in SERVICES[name]["environment"].values())
    settings = settings_of(name)
    for variable, value in environment(name).items():
        field = variable.removeprefix(config.PREFIX).lower()
        if field not in config.SECRETS:
            assert str(getattr(settings, field)) == value or not value, (
                f"{variable} is read as something else"
            )


def test_what_the_topics_are_made_of_is_the_same_for_all() -> None:
    for field in ("app_id", "partitions", "replication", "retention_days", "exchange"):
        assert len({getattr(settings_of(name), field) for name in OURS}) == 1, field


def test_the_feed_of_the_producer_is_the_mock_exchange_where_it_listens() -> None:
    feed = feeds.resolve(settings_of("producer"))
    mock = settings_of("mock-exchange")
    assert feed.url == f"ws://mock-exchange:{mock.mock_port}"
    assert feeds.resolve(mock).url == "", "the mock exchange is to make its own market"
    assert set(feed.products) <= set(feeds.resolve(mock).products)


def test_the_real_exchange_can_be_chosen_without_an_edit() -> None:
    raw = SERVICES["producer"]["environment"]["CANDLEWICK_FEED"]
    assert raw.startswith("${CANDLEWICK_FEED:-")
    assert "outside" in SERVICES["producer"]["networks"]


@pytest.mark.parametrize("name", OURS)
def test_addresses_name_services_and_the_ports_they_listen_on(name: str) -> None:
    ports = {"kafka": kafka_port(), **{each: settings_of(each).port for each in WORKERS}}
    ports["mock-exchange"] = settings_of("mock-exchange").mock_port
    for variable, value in environment(name).items():
        if variable not in {"CANDLEWICK_HOST", "CANDLEWICK_MOCK_HOST"}:
            for host, port in ADDRESS.findall(value):
                assert ports[host] == int(port), f"{name}: {variable}"
                assert host in SERVICES[name]["depends_on"]


@pytest.mark.parametrize("name", OURS)
def test_the_broker_is_given_wherever_one_is_used(name: str) -> None:
    needs = SERVICES[name]["command"][0] in {"produce", "worker"}
    assert (settings_of(name).broker == f"kafka:{kafka_port()}") == needs


def test_each_worker_has_a_name_an_address_and_a_volume_of_its_own() -> None:
    assert len(WORKERS) == 2
    for name in WORKERS:
        settings = settings_of(name)
        assert settings.worker_id == name == settings.advertised_host
        assert settings.host == "0.0.0.0"
        assert SERVICES[name]["volumes"] == [f"{name}:/data"]


@pytest.mark.parametrize("name", OURS)
def test_data_lie_on_a_named_volume(name: str) -> None:
    volumes = [volume.split(":") for volume in SERVICES[name]["volumes"]]
    assert [target for _, target in volumes] == [str(settings_of(name).data_dir)]
    assert {source for source, _ in volumes} <= COMPOSE["volumes"].keys()


def test_no_volume_is_shared_or_unused() -> None:
    used = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())]
    assert sorted(name for name in used if not name.startswith("./")) == sorted(COMPOSE["volumes"])


# Kafka.


def kafka_port() -> int:
    found = re.fullmatch(r"PLAINTEXT://kafka:([0-9]+)", environment("kafka")["KAFKA_ADVERTISED_LISTENERS"])
    assert found
    return int(found[1])


def test_kafka_is_the_version_that_tests_run_on() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_kafka_is_set_up_like_the_embedded_one() -> None:
    embedded = settings.SETTINGS
    here = {
        name.removeprefix("KAFKA_").replace("_", ".").lower(): value
        for name, value in environment("kafka").items()
        if name.startswith("KAFKA_")
    }
    for name in here.keys() & embedded.keys():
        assert here[name] == embedded[name], name
    assert here["auto.create.topics.enable"] == "false"
    # What would lose data, or refuse records, with the values that Kafka has by itself.
    assert here["message.max.bytes"] == here["replica.fetch.max.bytes"] == embedded["message.max.bytes"]
    assert here["log.retention.ms"] == embedded["log.retention.ms"]
    assert here["log.message.timestamp.after.max.ms"] == embedded["log.message.timestamp.after.max.ms"]


def test_kafka_listens_where_it_says_and_its_controller_only_to_itself() -> None:
    listeners = environment("kafka")["KAFKA_LISTENERS"].split(",")
    assert f"PLAINTEXT://0.0.0.0:{kafka_port()}" in listeners
    assert "CONTROLLER://127.0.0.1:9093" in listeners
    assert environment("kafka")["KAFKA_CONTROLLER_QUORUM_VOTERS"] == "1@127.0.0.1:9093"
    assert f"127.0.0.1:{kafka_port()}" in SERVICES["kafka"]["healthcheck"]["test"]


def test_kafka_keeps_its_topics_on_a_volume() -> None:
    assert SERVICES["kafka"]["volumes"] == [f"kafka:{environment('kafka')['KAFKA_LOG_DIRS']}"]


# The one address.


def test_the_proxy_asks_each_worker_where_its_views_are() -> None:
    upstream = dict(re.findall(r"^ *server (\S+) (\S+)$", PROXY, re.MULTILINE))
    assert upstream == {name: f"{name}:{settings_of(name).port}" for name in WORKERS}


def test_ports_are_published_on_loopback_of_the_proxy_and_of_what_watches() -> None:
    assert [name for name, service in SERVICES.items() if service.get("ports")] == ["proxy", *WATCHING]
    for name in ("proxy", *WATCHING):
        (published,) = SERVICES[name]["ports"]
        assert ip_address(published.rsplit(":", 2)[0]).is_loopback
    _, outside, inside = SERVICES["proxy"]["ports"][0].rsplit(":", 2)
    assert int(outside) == config.Settings().port, "the README's addresses hold for compose too"
    assert re.search(rf"^ *bind :{inside}$", PROXY, re.MULTILINE)


def health_check(name: str) -> tuple[int, str]:
    """Return port and path that a service asks itself for."""
    found = re.search(r"http://127\.0\.0\.1:([0-9]+)(/[\w/-]+)", str(SERVICES[name]["healthcheck"]))
    assert found
    return int(found[1]), found[2]


def test_health_checks_ask_for_paths_that_are_served() -> None:
    views = (ROOT / "candlewick" / "web" / "api" / "status.py").read_text(encoding="utf-8")
    rest = (ROOT / "candlewick" / "mock" / "rest.py").read_text(encoding="utf-8")
    for name in WORKERS:
        port, path = health_check(name)
        assert port == settings_of(name).port
        assert f'@page("{path}",' in views
        assert path in OPEN
    port, path = health_check("mock-exchange")
    assert port == settings_of("mock-exchange").mock_port
    assert f'web.get("{path}"' in rest
    checked = re.search(r"option httpchk GET (\S+)", PROXY)
    assert checked
    assert f'@page("{checked[1]}",' in views
    assert checked[1] in OPEN, "the proxy has no token"


def test_the_proxys_configuration_is_where_its_image_looks() -> None:
    (mounted,) = SERVICES["proxy"]["configs"]
    assert mounted == {"source": "proxy", "target": "/usr/local/etc/haproxy/haproxy.cfg"}


def test_configurations_are_files() -> None:
    # Compose writes a content into the container before it starts, and refuses where that is read-only.
    assert all(found.keys() == {"file"} for found in COMPOSE["configs"].values())
    assert all((ROOT / found["file"]).is_file() for found in COMPOSE["configs"].values())
    used = {mounted["source"] for service in SERVICES.values() for mounted in service.get("configs", ())}
    assert used == COMPOSE["configs"].keys()


# What watches.


def test_prometheus_scrapes_every_worker_with_the_token() -> None:
    (job,) = PROMETHEUS["scrape_configs"]
    targets = [target for group in job["static_configs"] for target in group["targets"]]
    assert targets == [f"{name}:{settings_of(name).port}" for name in WORKERS]
    service = SERVICES["prometheus"]
    assert job["authorization"] == {"credentials_file": "/tmp/token"}
    assert '"$$CANDLEWICK_TOKEN" > /tmp/token' in service["command"][0]
    assert service["environment"]["CANDLEWICK_TOKEN"].startswith("${CANDLEWICK_TOKEN:")


def test_prometheus_finds_its_files() -> None:
    targets = {mounted["source"]: mounted["target"] for mounted in SERVICES["prometheus"]["configs"]}
    assert f"--config.file={targets['prometheus']} " in SERVICES["prometheus"]["command"][0]
    folder = targets["prometheus"].rpartition("/")[0]
    assert [f"{folder}/{name}" for name in PROMETHEUS["rule_files"]] == [targets["alerts"]]
    assert SERVICES["prometheus"]["volumes"] == ["prometheus:/prometheus"]
    assert "--storage.tsdb.path=/prometheus " in SERVICES["prometheus"]["command"][0]


def test_grafana_shows_the_boards_of_the_repository_and_asks_our_prometheus() -> None:
    mounted = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert all(volume.endswith(":ro") for volume in SERVICES["grafana"]["volumes"])
    provisioning = ROOT / "deploy/grafana/provisioning"
    assert mounted[f"./{provisioning.relative_to(ROOT)}"] == "/etc/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    inside = SERVICES["prometheus"]["ports"][0].rpartition(":")[2]
    assert source["url"] == f"http://prometheus:{inside}"
    (provider,) = yaml.safe_load((provisioning / "dashboards/boards.yml").read_text())["providers"]
    assert mounted["./deploy/grafana/boards"] == provider["options"]["path"]
    home = environment("grafana")["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "deploy/grafana/boards" / home.removeprefix(f"{provider['options']['path']}/")).is_file()


def test_nobody_can_log_in_to_grafana_or_change_anything() -> None:
    given = environment("grafana")
    assert given["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert given["GF_AUTH_BASIC_ENABLED"] == given["GF_USERS_ALLOW_SIGN_UP"] == "false"
    assert (
        given["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == given["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    )


@pytest.mark.parametrize("name", WATCHING)
def test_what_watches_is_asked_whether_it_is_well_where_it_listens(name: str) -> None:
    assert health_check(name)[0] == int(SERVICES[name]["ports"][0].rpartition(":")[2])


# What holds for every service.


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_to_a_version(name: str) -> None:
    assert is_pinned(SERVICES[name]["image"])


def test_our_image_has_the_projects_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {SERVICES[name]["image"] for name in OURS} == {f"{project['name']}:{project['version']}"}


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode"}
    assert service.get("user") not in {"root", "0", "0:0"}
    assert "docker.sock" not in str(service)
    assert service["mem_limit"]
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", [*OURS, *WATCHING, "proxy"])
def test_the_file_system_is_read_only_but_for_data_and_tmp(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    wanted = {"proxy": [], "grafana": ["/tmp", "/var/lib/grafana"]}.get(name, ["/tmp"])
    assert [mount.split(":")[0] for mount in service.get("tmpfs", ())] == wanted


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_time_to_stop_in_order(name: str) -> None:
    period = SERVICES[name]["stop_grace_period"]
    assert int(period[:-1]) * MINUTES[period[-1]] >= 15


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_others_that_can_say_that_they_are_well(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}
        assert SERVICES[other]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_networks_are_declared_and_only_what_is_reached_or_reaches_out_sees_outside(name: str) -> None:
    networks = SERVICES[name]["networks"]
    assert set(networks) <= COMPOSE["networks"].keys()
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert ("outside" in networks) == (name in {"proxy", "producer", *WATCHING})


def test_there_are_no_secrets() -> None:
    words = re.compile(r"password|passwd|secret|token|api_?key|credential", re.IGNORECASE)
    assert not words.search((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if words.search(name):
                assert re.fullmatch(r"\$\{\w+:[-?][^}]*\}", value), f"{name} is not left to the caller"


def test_the_token_is_asked_for_and_both_workers_and_prometheus_have_the_same() -> None:
    for name in SERVICES:
        raw = SERVICES[name].get("environment", {}).get("CANDLEWICK_TOKEN", "")
        assert bool(ASKED_FOR.fullmatch(raw)) == (name in {*WORKERS, "prometheus"}), name
    for name in WORKERS:
        settings = settings_of(name)
        assert settings.token.get_secret_value() == TOKEN
        config.may_bind(settings, settings.host)
        assert "openssl rand -hex 24" in SERVICES[name]["environment"]["CANDLEWICK_TOKEN"]
