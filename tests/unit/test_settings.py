"""Settings: where a value comes from, and one exact line for everything that is wrong."""

from __future__ import annotations

import ast
import errno
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import site_network
from helpers.engines import jupyterlab, select
from helpers.engines.docker.engine import DockerEngine
from helpers.errors import BAD_SETTING, SettingError
from helpers.gpu.node_types import CHOICES
from helpers.project.project import Project
from helpers.project.state import State
from helpers.settings import BY_NAME, RESERVED, TABLE, Settings, example, generated, kinds, reference, resolved
from tests.unit.fakes import deployed, project

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hunter2hunter2hunter2"


class Place:
    """A clone with a ``.env`` and a state folder beside it."""

    def __init__(self, tmp: Path) -> None:
        self.clone = tmp / "clone"
        self.state = tmp / "state"
        self.env = self.clone / ".env"
        self.clone.mkdir()

    def load(
        self,
        env: str | bytes | None = None,
        flags: Mapping[str, str | None] | None = None,
        environ: Mapping[str, str] | None = None,
        remembered: Mapping[str, str] | None = None,
        mode: int = 0o600,
    ) -> Settings:
        if env is not None:
            self.env.write_bytes(env.encode() if isinstance(env, str) else env)
            self.env.chmod(mode)
        return Settings.load(flags or {}, {"HOME": "/home/ada", **(environ or {})}, self.env, remembered or {})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    created = Place(tmp_path)
    monkeypatch.setattr(resolved, "default_state_dir", lambda: created.state)
    return created


def test_defaults(place: Place) -> None:
    result = place.load()
    assert (result.mlflow_port, result.jupyter_port, result.s3_port, result.s3_console_port) == (
        8000,
        8888,
        9000,
        9001,
    )
    assert (result.engine, result.project, result.s3_bucket) == ("auto", "trackbed", "mlflow-artifacts")
    assert result.state_dir == place.state
    assert result.folder == place.state / "trackbed"
    assert result.workspace == place.state / "trackbed" / "workspace"
    assert result.origin("MLFLOW_PORT") == "default"
    assert result.explicit == {} and result.warnings == () and result.env_file == place.env


def test_table_and_fields_agree() -> None:
    rows = [setting.field for setting in TABLE]
    assert sorted(f.name for f in fields(Settings)[: len(rows)]) == sorted(rows)
    assert {s.name for s in TABLE if s.secret} == {
        "S3_SECRET_KEY",
        "BACKUP_PASSPHRASE",
        "BACKUP_S3_SECRET_KEY",
        "IMPORT_S3_SECRET_KEY",
        "POSTGRES_PASSWORD",
        "JUPYTER_TOKEN",
        "TRACKING_PASSWORD",
        "TRACKING_TOKEN",
        "MLFLOW_TOKEN",
        "MLFLOW_CRYPTO_KEK_PASSPHRASE",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY",
    }
    assert not any(s.flag for s in TABLE if s.secret)
    for f in fields(Settings)[: len(rows)]:
        assert f.repr is not BY_NAME[f.name.upper()].secret


def test_example_file_is_current() -> None:
    assert (ROOT / ".env.example").read_text() == example()


def test_settings_page_is_current() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    assert text == reference.page(text), "python -m helpers.settings docs/settings.md"


def test_compose_files_read_what_settings_say() -> None:
    """A declaration's ``compose`` and ``${TRACKBED_...}`` of the Compose files are one."""
    read = {
        name
        for path in (ROOT / "docker").glob("compose*.yaml")
        for name in re.findall(r"\$\{?TRACKBED_([A-Z0-9_]+)", path.read_text())
    }
    declared = {row.name for row in TABLE if row.compose}
    assert declared <= read
    # found out at run time: the image that is here, the store's own address, the gateway's port
    assert (read & BY_NAME.keys()) - declared == {
        "POSTGRES_IMAGE",
        "MINIO_IMAGE",
        "VERSITYGW_IMAGE",
        "S3_ENDPOINT",
        "JUPYTER_PORT",
    }


def test_example_taken_literally_gives_the_defaults(place: Place) -> None:
    taken = "".join(
        line.removeprefix("#") + "\n" if line[:1] == "#" and line[1:2] != " " else line + "\n"
        for line in example().splitlines()
    )
    assert place.load(taken) == Place.load(place, "")
    assert all(f"\n{setting.name}=" in taken for setting in TABLE)


LAYERS = [
    ({"mlflow_port": "1111"}, "2222", "3333", "4444", 1111, "--mlflow-port"),
    ({"mlflow-port": None}, "2222", "3333", "4444", 2222, "TRACKBED_MLFLOW_PORT"),
    ({}, None, "3333", "4444", 3333, ".env line 2"),
    ({}, None, None, "4444", 4444, "the last `invoke up`"),
    ({}, None, None, None, 8000, "default"),
    ({"MLFLOW_PORT": ""}, "2222", "3333", "4444", 8000, "default"),
    ({}, "", "3333", "4444", 8000, "default"),
    ({}, None, "", "4444", 8000, "default"),
]


@pytest.mark.parametrize(("flags", "variable", "line", "last", "value", "origin"), LAYERS)
def test_precedence(
    place: Place,
    flags: dict[str, str | None],
    variable: str | None,
    line: str | None,
    last: str | None,
    value: int,
    origin: str,
) -> None:
    result = place.load(
        f"# mine\nMLFLOW_PORT={line}\n" if line is not None else "",
        flags,
        {} if variable is None else {"TRACKBED_MLFLOW_PORT": variable},
        {} if last is None else {"MLFLOW_PORT": last},
    )
    assert result.mlflow_port == value
    assert result.origin("MLFLOW_PORT") == origin == result.origin("mlflow-port")


def test_told_is_what_up_has_to_remember(place: Place, tmp_path: Path) -> None:
    result = place.load(
        "JUPYTER_PORT=7777\n",
        {"mlflow_port": "8100", "workspace": "~/runs", "project": "two", "gpu": ""},
        {
            "TRACKBED_S3_PORT": "9100",
            "TRACKBED_JUPYTER_TOKEN": SECRET,
            "TRACKBED_STATE_DIR": str(tmp_path / "s"),
        },
    )
    assert result.explicit == {"MLFLOW_PORT": "8100", "WORKSPACE": "/home/ada/runs", "S3_PORT": "9100", "GPU": ""}
    assert result.folder == tmp_path / "s" / "two"


def test_remembered_is_looked_up_in_the_folder_that_project_and_state_dir_name(place: Place, tmp_path: Path) -> None:
    block = (
        "# >>> written by Trackbed x\nCOMPOSE_PROJECT_NAME=lab\n"
        f"TRACKBED_STATE_DIR={tmp_path}/elsewhere\nTRACKBED_MLFLOW_PORT=1\n# <<< written by Trackbed\n"
    )
    place.env.write_text(block)
    asked: list[Path] = []

    def remembered(folder: Path) -> Mapping[str, str]:
        asked.append(folder)
        return {"MLFLOW_PORT": "8123", "POSTGRES_PASSWORD": "from-an-old-file", "GONE_SETTING": "x"}

    result = Settings.load({}, {}, place.env, remembered)
    assert asked == [tmp_path / "elsewhere" / "lab"]
    assert (result.project, result.mlflow_port, result.postgres_password) == ("lab", 8123, "")
    assert result.origin("PROJECT") == "the last `invoke up`"
    assert Settings.load({"project": "other"}, {}, place.env, {}).project == "other"


def test_again_checks_as_the_first_time(place: Place) -> None:
    """What is found out while `up` runs, a free port say, is a value like any other: nothing replaces it unchecked."""
    first = place.load("JUPYTER_PORT=8123\nS3_PORT=9999\n", flags={"s3_console_port": "9998"})
    place.env.write_text("")  # read once
    again = first.reload({"MLFLOW_PORT": "8500"})
    assert (again.mlflow_port, again.jupyter_port, again.s3_port, again.s3_console_port) == (8500, 8123, 9999, 9998)
    assert again.origin("MLFLOW_PORT") == "the last `invoke up`" and "MLFLOW_PORT" not in again.explicit
    other = again.reload({}, project="other", s3_console_port="9997")
    assert (other.project, other.s3_console_port, other.jupyter_port) == ("other", 9997, 8123)
    with pytest.raises(SettingError, match="two services cannot share a port"):
        first.reload({"MLFLOW_PORT": "8123"})


def test_a_wrong_remembered_value_says_how_to_forget_it(place: Place) -> None:
    with pytest.raises(SettingError) as caught:
        place.load(remembered={"MLFLOW_PORT": "70000"})
    assert caught.value.message == "MLFLOW_PORT=70000 (from the last `invoke up`): must be a port from 1 to 65535."
    assert caught.value.hint == "forget what it was told: `invoke up --mlflow-port=`"


def test_what_has_no_flag_is_forgotten_by_a_variable(place: Place) -> None:
    with pytest.raises(SettingError) as caught:
        place.load(remembered={"ACME_ROOT": "/gone.pem"})
    assert caught.value.hint == "forget what it was told: `TRACKBED_ACME_ROOT= invoke up`"
    assert place.load(environ={"TRACKBED_ACME_ROOT": ""}, remembered={"ACME_ROOT": "/gone.pem"}).acme_root == ""


def test_how_a_value_is_given() -> None:
    assert BY_NAME["HTTP_PORT"].given("8081") == "`invoke up --http-port=8081`"
    assert BY_NAME["S3_REGION"].given("eu-1") == "S3_REGION=eu-1 in .env"


def test_a_shell_that_sourced_env_tells_nothing(place: Place) -> None:
    block = "# >>> written by Trackbed\nTRACKBED_MLFLOW_HOSTS=a\nTRACKBED_GPU=none\n# <<< written by Trackbed\n"
    result = place.load(block, environ={"TRACKBED_MLFLOW_HOSTS": "a", "TRACKBED_GPU": "none"})
    assert result.explicit == {}
    assert (str(result.gpu), result.origin("GPU")) == ("none", "the last `invoke up`")


def test_a_variable_counts_also_where_up_left_the_same_value_for_compose(place: Place) -> None:
    """What a start that failed was told is not remembered: without this it was gone for the next command of the shell."""
    told = {"S3_BUCKET": "lab", "S3_ENDPOINT": "https://s3.example.org", "OBJECT_STORE": "external"}
    environ = {f"TRACKBED_{name}": value for name, value in told.items()}
    left = {name: value for name, value in environ.items() if name != "TRACKBED_OBJECT_STORE"}
    left |= {"TRACKBED_MLFLOW_PORT": "8400", "TRACKBED_STATE_DIR": str(place.state), "TRACKBED_SECRETS": "0123"}
    (place.clone / generated.VALUES).write_text("".join(f"{name}={value}\n" for name, value in left.items()))
    place.env.write_text("S3_BUCKET=other\nS3_ACCESS_KEY=abc\nS3_SECRET_KEY=ab/cd+efgh\n")
    place.env.chmod(0o600)
    result = place.load(environ=environ | {"TRACKBED_STATE_DIR": str(place.state)})
    assert result.explicit == told
    assert (result.s3_bucket, result.origin("S3_ENDPOINT")) == ("lab", "TRACKBED_S3_ENDPOINT")
    assert result.origin("STATE_DIR") == "the last `invoke up`"
    sourced = place.load(environ=left, remembered={"OBJECT_STORE": "external", "S3_ENDPOINT": "https://s3.example.org"})
    assert sourced.explicit == {}
    assert (sourced.s3_bucket, sourced.mlflow_port, sourced.origin("MLFLOW_PORT")) == (
        "other",
        8400,
        "the last `invoke up`",
    )


@pytest.mark.parametrize(("before", "now"), [("on", "on"), ("off", "on"), ("on", "off")])
def test_a_shell_that_sourced_it_before_jobs_were_switched_is_not_warned(
    place: Place, tmp_path: Path, before: str, now: str
) -> None:
    left = {mode: DockerEngine(project(tmp_path, mlflow_jobs=mode)).compose.values() for mode in (before, now)}
    (place.clone / generated.VALUES).write_text("".join(f"{name}={value}\n" for name, value in left[now].items()))
    result = place.load(environ=left[before])
    assert result.warnings == () and result.explicit.get("MLFLOW_JOBS") is None


def test_unprefixed_environment_is_not_ours(place: Place) -> None:
    result = place.load(environ={"GPU": "nonsense", "PROJECT": "ci", "ENGINE": "v8", "WORKSPACE": "/ci"})
    assert (str(result.gpu), result.project, result.engine) == ("auto", "trackbed", "auto")


def test_reserved_names_are_ignored(place: Place) -> None:
    names = ("TRACEBACK", "REQUIRE_DOCKER", "REQUIRE_BROWSER", "RIG_ROOT", "MIGRATE")
    assert place.load(environ={f"TRACKBED_{n}": "1" for n in names}).warnings == ()


# of services without terminals: in a user's shell they mean a setting that is called otherwise, and are refused
NO_TERMINAL = {
    "TRACKBED_HOST",
    "TRACKBED_PORT",
    "TRACKBED_WORKERS",
    "TRACKBED_REGION",
    "TRACKBED_FAST_PATH",
    "TRACKBED_JOBS",
    "TRACKBED_JOBS_MODELS",
}


def given_to_services() -> set[str]:
    """Every TRACKBED_ variable that our code, Compose files and images put into a service."""
    name = re.compile(r"TRACKBED_[A-Z0-9_]*[A-Z0-9]")
    result = set()
    for path in (ROOT / "helpers").rglob("*.py"):
        # the engine's own are for Compose, and kept in .env
        if path.parent.name == "settings" or path.match("docker/variables.py"):
            continue
        result |= {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and name.fullmatch(node.value)
        }
    for path in (ROOT / "docker").rglob("*"):
        if path.suffix == ".yaml":
            result |= set(re.findall(rf"({name.pattern}):", re.sub(r"\$\{[^}]*\}", "", path.read_text())))
        elif path.name.endswith("Dockerfile"):
            result |= set(re.findall(rf"^(?:ENV)? +({name.pattern})=", path.read_text(), re.MULTILINE))
    return result


def test_a_terminal_of_our_own_notebook_is_not_warned_about_its_variables(place: Place) -> None:
    reported = jupyterlab.environment(deployed(place.load()), "http://mlflow:8000", "/startup")
    assert not NO_TERMINAL & set(reported)
    ours = given_to_services() | {name for name in reported if name.startswith("TRACKBED_")}
    assert {
        "TRACKBED_PROGRAMS",
        "TRACKBED_STARTUP",
        "TRACKBED_STORE_NETWORK",
        "TRACKBED_GATEWAY_KEY_FILE",
        "TRACKBED_OWN_TMP",
        "TRACKBED_S3_CREATE",
        *NO_TERMINAL,
    } <= ours
    ours -= {f"TRACKBED_{name}" for name in BY_NAME} | NO_TERMINAL
    assert [name for name in sorted(ours) if not RESERVED.fullmatch(name)] == []
    assert place.load(environ=dict.fromkeys(ours, "x")).warnings == ()


def test_every_bundle_that_is_trusted_may_be_named_in_env(place: Place) -> None:
    result = place.load("".join(f"{name}=/c\n" for name in site_network.TRUST))
    assert (set(result.passthrough), result.warnings) == (set(site_network.TRUST), ())


def test_foreign_names_pass_and_strange_ones_warn(place: Place) -> None:
    result = place.load(
        "COMPOSE_PROGRESS=plain\nDOCKER_HOST=tcp://h:1\nhttps_proxy=http://p\nNO_COLOR=1\nSSL_CERT_FILE=/c\nZEBRA=1\n",
        environ={"TRACKBED_ZEBRA_CROSSING": "1"},
    )
    assert result.passthrough == {
        "DOCKER_HOST": "tcp://h:1",
        "https_proxy": "http://p",
        "NO_COLOR": "1",
        "SSL_CERT_FILE": "/c",
    }
    assert result.warnings == (
        "TRACKBED_ZEBRA_CROSSING (from the environment) is not a setting; ignored.",
        "ZEBRA (from .env line 6) is not a setting; ignored.",
    )


def test_an_own_compose_file_is_said_to_lose(place: Place) -> None:
    assert place.load("COMPOSE_FILE=mine.yaml\n").warnings == (
        "COMPOSE_FILE (from .env line 1): a bare `docker compose` takes it in place of what `invoke up` writes for "
        "this project.",
    )


GOOD = [
    ("PUBLIC_ADDRESS", "GPU7.Lab.Example.org", "gpu7.lab.example.org"),
    ("PUBLIC_ADDRESS", "192.0.2.7", "192.0.2.7"),
    ("PUBLIC_ADDRESS", "2001:db8::1", "2001:db8::1"),
    ("BIND_ADDRESS", "127.0.0.2", "127.0.0.2"),
    ("MLFLOW_PORT", " 80 ", 80),
    ("S3_BUCKET", "a.b-c", "a.b-c"),
    ("S3_REGION", "RegionOne", "RegionOne"),
    ("JUPYTER_SHM_SIZE", "512MB", "512m"),
    ("WORKSPACE", "~/my runs", Path("/home/ada/my runs")),
    ("JUPYTER_IMAGE", "localhost:5000/a/b:1@sha256:" + "0" * 64, "localhost:5000/a/b:1@sha256:" + "0" * 64),
    ("POSTGRES_IMAGE", "postgres@sha256:" + "0" * 64, "postgres@sha256:" + "0" * 64),
    ("READY_TIMEOUT", "5", 5),
]


@pytest.mark.parametrize(("name", "raw", "value"), GOOD)
def test_good_values(place: Place, name: str, raw: str, value: object) -> None:
    assert getattr(place.load(environ={f"TRACKBED_{name}": raw}), name.lower()) == value


def test_external_store(place: Place) -> None:
    result = place.load(
        "OBJECT_STORE=external\nS3_ENDPOINT=https://s3.example.org:8443/\nS3_ACCESS_KEY=abc\nS3_SECRET_KEY=ab/cd+efgh\n"
    )
    assert result.s3_endpoint == "https://s3.example.org:8443"
    for engine in ("docker", "embedded"):
        select.make(Project(result, State(result.folder)), engine)
        assert result.object_store == "external"


def test_external_key_that_an_earlier_up_kept_is_enough(place: Place) -> None:
    secrets = place.state / "trackbed" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "EXTERNAL_S3_SECRET_KEY").write_text("abcdefgh")
    place.load("OBJECT_STORE=external\nS3_ENDPOINT=http://s3\nS3_ACCESS_KEY=abc\n")


def test_a_remembered_endpoint_does_not_forbid_another_store(place: Place) -> None:
    assert place.load(flags={"object_store": "minio"}, remembered={"S3_ENDPOINT": "http://s3"}).s3_endpoint


def test_an_engine_has_its_own_stores(place: Place) -> None:
    def store(text: str, engine: str) -> str:
        result = place.load(text)
        return select.make(Project(result, State(result.folder)), engine).object_store

    assert store("", "docker") == "versitygw" and store("", "embedded") == "folder"
    assert store("OBJECT_STORE=minio\n", "docker") == "minio"
    with pytest.raises(SettingError) as caught:
        store("OBJECT_STORE=folder\n", "docker")
    assert caught.value.message == (
        "OBJECT_STORE=folder (from .env line 1): the docker engine (ENGINE=auto, the default) has no such store; "
        "must be one of auto, minio, versitygw, external."
    )
    with pytest.raises(SettingError, match=r"ENGINE=embedded, from .env line 1.*must be one of auto, folder, external"):
        store("ENGINE=embedded\nOBJECT_STORE=minio\n", "embedded")


PORT = "must be a port from 1 to 65535."
WORDS = "must be one of"
LOOPBACK = (
    "must be a loopback IPv4 address (127.0.0.1), because nothing here has a login without PUBLIC=true; reach it "
    "from another machine with ssh -L 8000:localhost:8000 USER@THIS_MACHINE."
)
HOST = "must be a host name or an IP address, without http:// and without a port."
BUCKET = "must be a bucket name: a-z, 0-9, - and ., the first and last a letter or digit."
ENDPOINT = "must be http://HOST[:PORT] or https://HOST[:PORT]."
GPU_RULE = (
    "auto, none, amd, nvidia or a node type: mi100, liqid, gigaio, h100, a100_pcie, a100_nvlink, v100, "
    "rtx_6000, p100, p100_nvlink, p100_v100, m40"
)
FOLDER = "must be an absolute folder (~ is your home)."
CHARACTERS = (
    "must not hold quotes, backslashes, control characters or any of $ ` : , (Docker and Compose cannot take them)."
)
IMAGE = "must be an image name with a tag, as in registry/name:1.2."
PROJECT = "must be 1 to 40 of a-z, 0-9, _ and -, the first a letter or digit."
SIZE = "must be a size from 64m to 4096g, as in 512m or 16g."
LONG = "x" * 80

# name, value, what the line says after "NAME=value (from --flag): "
BAD_VALUES = [
    ("ENGINE", "dokcer", f"{WORDS} auto, docker, embedded, kubernetes. Did you mean docker?"),
    ("ENGINE", "Docker", f"{WORDS} auto, docker, embedded, kubernetes. Did you mean docker?"),
    ("ENGINE", "podman", f"{WORDS} auto, docker, embedded, kubernetes."),
    ("PROJECT", "My Lab", f"{PROJECT} Did you mean my-lab?"),
    ("PROJECT", "../etc", f"{PROJECT} Did you mean etc?"),
    ("PROJECT", "x" * 41, f"{PROJECT} Did you mean {'x' * 40}?"),
    ("PROJECT", "!!!", PROJECT),
    ("OBJECT_STORE", "mino", f"{WORDS} auto, minio, versitygw, external, folder. Did you mean minio?"),
    ("OBJECT_STORE", "s3", f"{WORDS} auto, minio, versitygw, external, folder."),
    ("BIND_ADDRESS", "0.0.0.0", LOOPBACK),
    ("BIND_ADDRESS", "192.168.1.5", LOOPBACK),
    ("BIND_ADDRESS", "localhost", f"{LOOPBACK} Did you mean 127.0.0.1?"),
    ("BIND_ADDRESS", "::1", f"{LOOPBACK} Did you mean 127.0.0.1?"),
    ("PUBLIC_ADDRESS", "http://lab.org:8000/x", f"{HOST} Did you mean lab.org?"),
    ("PUBLIC_ADDRESS", "lab.org:8000", f"{HOST} Did you mean lab.org?"),
    ("PUBLIC_ADDRESS", "300.1.2.3", HOST),
    ("PUBLIC_ADDRESS", "my_host", HOST),
    ("PUBLIC_ADDRESS", "-oProxyCommand=x", HOST),
    ("MLFLOW_PORT", "70000", PORT),
    ("MLFLOW_PORT", "0", PORT),
    ("MLFLOW_PORT", "-1", PORT),
    ("MLFLOW_PORT", "8000.0", PORT),
    ("MLFLOW_PORT", "eighty", PORT),
    ("MLFLOW_PORT", "٨٠٠٠", PORT),
    (
        "MLFLOW_PORT",
        "8888",
        "must differ from JUPYTER_PORT=8888 (the default); two services cannot share a port.",
    ),
    (
        "S3_CONSOLE_PORT",
        "8000",
        "must differ from MLFLOW_PORT=8000 (the default); two services cannot share a port.",
    ),
    ("S3_BUCKET", "ab", "must be 3 to 63 characters long."),
    ("S3_BUCKET", "x" * 64, "must be 3 to 63 characters long."),
    ("S3_BUCKET", "My_Bucket", f"{BUCKET} Did you mean my-bucket?"),
    ("S3_BUCKET", "-abc", f"{BUCKET} Did you mean abc?"),
    ("S3_BUCKET", "a..b", "must not hold '..', '.-' or '-.' (S3 forbids it)."),
    ("S3_BUCKET", "192.168.5.4", "must not look like an IP address (S3 forbids it)."),
    ("S3_BUCKET", "xn--abc", "must not begin with xn-- (S3 forbids it)."),
    ("S3_BUCKET", "abc-s3alias", "must not end with -s3alias (S3 forbids it)."),
    ("S3_BUCKET", "minio", "must not be minio (MinIO keeps that name for itself)."),
    ("S3_ENDPOINT", "s3.lab.org", f"{ENDPOINT} Did you mean https://s3.lab.org?"),
    ("S3_ENDPOINT", "s3.lab.org:9000", f"{ENDPOINT} Did you mean https://s3.lab.org:9000?"),
    ("S3_ENDPOINT", "ftp://s3", ENDPOINT),
    ("S3_ENDPOINT", "https://s3/bucket", f"{ENDPOINT} Did you mean https://s3?"),
    ("S3_ENDPOINT", "https://s3:99999", ENDPOINT),
    ("S3_ENDPOINT", "http://", ENDPOINT),
    ("S3_ENDPOINT", "http://[::1", ENDPOINT),
    ("S3_ENDPOINT", "http://s3", "is for OBJECT_STORE=external only; OBJECT_STORE is auto (the default)."),
    ("S3_REGION", "us east", "must be 1 to 64 letters, digits, _ and -."),
    ("S3_ACCESS_KEY", "a b", "must be 3 to 128 letters, digits and any of _ . ~ + = -."),
    ("GPU", "nonee", f"must be {GPU_RULE}. Did you mean none?"),
    ("GPU", "mi10", f"must be {GPU_RULE}. Did you mean mi100?"),
    ("GPU", "cuda", f"must be {GPU_RULE}. Did you mean nvidia?"),
    ("GPU", "rocm", f"must be {GPU_RULE}. Did you mean amd?"),
    ("GPU", "lquid", f"must be {GPU_RULE}. Did you mean liqid?"),
    ("GPU", "nvidia:0", f"must be {GPU_RULE}. Did you mean nvidia?"),
    ("GPU", "intel", "is not supported, AMD and NVIDIA GPUs are. Did you mean none?"),
    ("DEVICES", "0;1", "must be all, or indexes of GPUs with commas, as in 0,1."),
    ("DEVICES", "0,0", "must be all, or indexes of GPUs with commas, as in 0,1."),
    ("DEVICES", "-1", "must be all, or indexes of GPUs with commas, as in 0,1."),
    ("TORCH", "yes", "must be one of auto, cpu, none."),
    (
        "REGISTRY_MIRROR",
        "https://m",
        "must be HOST[:PORT][/PATH], without https://, or REGISTRY=HOST[:PORT][/PATH] for each of some registries.",
    ),
    (
        "REGISTRY_MIRROR",
        "m.example/hub ghcr.io=n.example",
        "must be one HOST/PATH for all, or name the registry of each, as in ghcr.io=HOST/PATH.",
    ),
    ("REGISTRY_MIRROR", "ghcr.io=m.example ghcr.io=n.example", "must name each registry once."),
    ("REGISTRY_MIRROR", "ghcr.io/a=m.example", f"must be {kinds.MIRROR.allowed}."),
    *(
        ("TORCH_INDEX", value, "must be http:// or https:// and the address of a wheel index.")
        for value in ("wheels", "https://[x", "https://host:port/whl")
    ),
    ("ACME_CA", "https://[x", "must be https://HOST[:PORT]/PATH."),
    ("CULL_IDLE", "30", "must be off, or a time as in 90s, 30m or 12h. Did you mean 30m?"),
    ("CULL_IDLE", "soon", "must be off, or a time as in 90s, 30m or 12h."),
    ("DATA_VOLUME", "a volume", "must be a Docker volume's name or an absolute folder."),
    ("DATA_VOLUME", "/etc", "must be a folder of its own, not one of the system."),
    ("JUPYTER_ENV", "A=1 B", "must be NAME=VALUE words, quoted as in a shell."),
    ("JUPYTER_ENV", "A='1", "has a quote that does not end."),
    ("JUPYTER_ENV", "JUPYTER_TOKEN=x", "must not set JUPYTER_TOKEN, which Trackbed sets itself."),
    ("JUPYTER_VOLUMES", "data", "must be SOURCE:/TARGET or SOURCE:/TARGET:ro words."),
    ("JUPYTER_VOLUMES", "data:relative", "must be SOURCE:/TARGET or SOURCE:/TARGET:ro words."),
    ("JUPYTER_VOLUMES", "data:/x:rx", "must be SOURCE:/TARGET or SOURCE:/TARGET:ro words."),
    ("JUPYTER_VOLUMES", "/x:/run/secrets", "must not cover /run/secrets, which Trackbed needs."),
    ("JUPYTER_VOLUMES", "/x:/home/jovyan", "must not cover /home/jovyan/work, which Trackbed needs."),
    ("WORKSPACE", "~bob/x", FOLDER),
    ("WORKSPACE", "/", "must be a folder of its own, not one of the system."),
    ("WORKSPACE", "/etc/", "must be a folder of its own, not one of the system."),
    ("WORKSPACE", "/proc/1", "must be a folder of its own, not one of the system."),
    ("WORKSPACE", "/data:rw", CHARACTERS),
    ("WORKSPACE", "/data/$HOME", CHARACTERS),
    ("WORKSPACE", "/dev/../etc/passwd", "must be a folder; there is a file of that name."),
    ("STATE_DIR", "/tmp", "must be a folder of its own, not one of the system."),
    (
        "POSTGRES_IMAGE",
        "postgres",
        "must name a tag or a digest, as in NAME:1.2 (else it changes under you).",
    ),
    ("MINIO_IMAGE", "pgsty/silo:", IMAGE),
    ("MLFLOW_IMAGE", "https://hub/x:1", IMAGE),
    ("JUPYTER_IMAGE", "a b:1", IMAGE),
    ("VERSITYGW_IMAGE", "x@sha256:123", IMAGE),
    ("MLFLOW_WORKERS", "33", "must be a number from 1 to 32."),
    ("JUPYTER_SHM_SIZE", "16gb!", SIZE),
    ("JUPYTER_SHM_SIZE", "1k", SIZE),
    ("JUPYTER_SHM_SIZE", "16t", SIZE),
    ("READY_TIMEOUT", "4", "must be seconds from 5 to 3600."),
    ("READY_TIMEOUT", "3m", "must be seconds from 5 to 3600."),
    ("BUILD_NETWORK", "hots", "must be one of default, host. Did you mean host?"),
]


@pytest.mark.parametrize(("name", "value", "rest"), BAD_VALUES)
def test_bad_value(place: Place, name: str, value: str, rest: str) -> None:
    option = BY_NAME[name].option
    shown = f"={value}" if len(value) <= 60 else f"={value[:57]}..."
    shown = "" if name == "JUPYTER_ENV" and "=" in value else shown  # may have a token of another service
    ways = (("flag", option), ("variable", f"TRACKBED_{name}"))
    for given_as, origin in ways if BY_NAME[name].flag else ways[1:]:
        with pytest.raises(SettingError) as caught:
            if given_as == "flag":
                place.load(flags={name.lower(): value})
            else:
                place.load(environ={f"TRACKBED_{name}": value})
        assert caught.value.message == f"{name}{shown} (from {origin}): {rest}"
        assert caught.value.code == BAD_SETTING


@pytest.mark.parametrize(
    ("flags", "environ", "file", "hint"),
    [
        ({"gpu": "nvdia"}, {}, "", "write --gpu=nvidia"),
        ({"engine": "podman"}, {}, "", "for the default: --engine=auto"),
        ({"mlflow_port": "80000"}, {}, "", "for the default: --mlflow-port=8000"),
        ({"public_address": "my_host"}, {}, "", "for the default: --public-address="),
        ({}, {"TRACKBED_GPU": "nvdia"}, "", "write TRACKBED_GPU=nvidia"),
        (
            {},
            {"TRACKBED_MLFLOW_PRT": "1"},
            "",
            "`unset TRACKBED_MLFLOW_PRT`, and set TRACKBED_MLFLOW_PORT in its place",
        ),
        ({}, {}, "GPU=nvdia\n", "write GPU=nvidia"),
        ({}, {}, "ENGINE=podman\n", "for the default: ENGINE=auto"),
        ({}, {}, "MLFLOW_PRT=1\n", "write MLFLOW_PORT=... on that line"),
        ({}, {}, "TRACKBED_MLFLOW_PORT=1\n", "write MLFLOW_PORT=... on that line"),
        ({}, {}, "TRACKBED_WHATEVER=1\n", "delete the line"),
        ({"s3_port": "8000"}, {}, "", "for the default: --s3-port=9000"),
    ],
)
def test_a_wrong_value_has_a_next_step(
    place: Place, flags: dict[str, str], environ: dict[str, str], file: str, hint: str
) -> None:
    with pytest.raises(SettingError) as caught:
        place.load(file, flags=flags, environ=environ)
    assert caught.value.hint == hint


def test_a_folder_that_a_file_server_closes_to_root(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path, exists: Callable[[Path], bool] = Path.exists) -> bool:
        if path.is_relative_to("/nfs"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", closed)
    with pytest.raises(SettingError, match="WORKSPACE=/nfs/ada/lab .*may enter; a file server with root_squash"):
        place.load(flags={"workspace": "/nfs/ada/lab"})


# the text of .env and the whole line
BAD_FILES = [
    ("MLFLOW_PORT=70000\n", f"MLFLOW_PORT=70000 (from .env line 1): {PORT}"),
    ("\n\n# x\n\nMLFLOW_PORT=x # why\n", f"MLFLOW_PORT=x (from .env line 5): {PORT}"),
    ("A_B=1\r\nMLFLOW_PORT=x\r\n", f"MLFLOW_PORT=x (from .env line 2): {PORT}"),
    ("MLFLOW_PROT=8000\n", "MLFLOW_PROT (from .env line 1): no such setting. Did you mean MLFLOW_PORT?"),
    ("mlflow_port=8000\n", "mlflow_port (from .env line 1): no such setting. Did you mean MLFLOW_PORT?"),
    ("WORKSPACES=/x\n", "WORKSPACES (from .env line 1): no such setting. Did you mean WORKSPACE?"),
    (
        "MINIO_ROOT_PASSWORD=x\n",
        "MINIO_ROOT_PASSWORD (from .env line 1): no such setting. Did you mean S3_SECRET_KEY?",
    ),
    (
        "AWS_ACCESS_KEY_ID=x\n",
        "AWS_ACCESS_KEY_ID (from .env line 1): no such setting. Did you mean S3_ACCESS_KEY?",
    ),
    (
        "TRACKBED_MLFLOW_PORT=1\n",
        "TRACKBED_MLFLOW_PORT (from .env line 1): drop the prefix in this file. Did you mean MLFLOW_PORT?",
    ),
    ("TRACKBED_TRACEBACK=1\n", "TRACKBED_TRACEBACK (from .env line 1): is read from the environment only."),
    ("TRACKBED_WHATEVER=1\n", "TRACKBED_WHATEVER (from .env line 1): no such setting."),
    ("GPU=none\nGPU=auto\n", ".env line 2: GPU is already set on line 1; delete one of them"),
    (
        "MLFLOW_PORT=8888\n",
        "MLFLOW_PORT=8888 (from .env line 1): must differ from JUPYTER_PORT=8888 (the default); "
        "two services cannot share a port.",
    ),
    (
        "MLFLOW_PORT=5000\nS3_PORT=5000\n",
        "S3_PORT=5000 (from .env line 2): must differ from MLFLOW_PORT=5000 "
        "(from .env line 1); two services cannot share a port.",
    ),
    (
        "POSTGRES_PASSWORD=short\n",
        "POSTGRES_PASSWORD (from .env line 1): must be 8 to 128 letters, digits and any of _ . ~ + / = -.",
    ),
    (
        "POSTGRES_PASSWORD=pa$wordpa$word\n",
        "POSTGRES_PASSWORD (from .env line 1): must be 8 to 128 letters, digits and any of _ . ~ + / = -.",
    ),
    ("JUPYTER_TOKEN=abc\n", "JUPYTER_TOKEN (from .env line 1): must be 16 to 128 letters, digits, _ and -."),
    (
        "S3_SECRET_KEY='with space here'\n",
        "S3_SECRET_KEY (from .env line 1): must be 8 to 128 letters, digits and any of _ . ~ + / = -.",
    ),
    (
        "OBJECT_STORE=external\n",
        "S3_ENDPOINT is missing: OBJECT_STORE=external (from .env line 1) needs it; "
        "must be http://HOST[:PORT] or https://HOST[:PORT].",
    ),
    (
        "OBJECT_STORE=external\nS3_ENDPOINT=http://s3\n",
        "S3_ACCESS_KEY is missing: OBJECT_STORE=external (from .env line 1) needs it; must be "
        "3 to 128 letters, digits "
        "and any of _ . ~ + = -.",
    ),
    (
        "OBJECT_STORE=external\nS3_ENDPOINT=http://s3\nS3_ACCESS_KEY=abc\n",
        "S3_SECRET_KEY is missing: OBJECT_STORE=external (from .env line 1) needs it; must be "
        "8 to 128 letters, digits "
        "and any of _ . ~ + / = -.",
    ),
    (
        "S3_ENDPOINT=http://me:hunter2@s3\n",
        "S3_ENDPOINT=http://***@s3 (from .env line 1): must not hold a user or "
        "password; they are S3_ACCESS_KEY and S3_SECRET_KEY.",
    ),
    (
        "TORCH_INDEX=https://me:hunt/er2@wheels\n",
        "TORCH_INDEX=https://***@wheels (from .env line 1): must be http:// or https:// and the address of a wheel index.",
    ),
    ('ENGINE="a\\nb"\n', "ENGINE=a\\nb (from .env line 1): must be one of auto, docker, embedded, kubernetes."),
    (
        f"ENGINE={LONG}\n",
        f"ENGINE={LONG[:57]}... (from .env line 1): must be one of auto, docker, embedded, kubernetes.",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_bad_file(place: Place, text: str, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        place.load(text)
    assert caught.value.message == message
    assert caught.value.code == BAD_SETTING


BAD_NAMES = [
    ({"egnine": "x"}, {}, "--egnine: no such setting. Did you mean --engine?"),
    ({"zebra": "x"}, {}, "--zebra: no such setting."),
    ({"mlflow_workers": "2"}, {}, "--mlflow-workers: is no flag."),
    ({"mlflow_worker": "2"}, {}, "--mlflow-worker: no such setting. Did you mean MLFLOW_WORKERS=... in .env?"),
    (
        {"postgres_password": SECRET},
        {},
        "POSTGRES_PASSWORD (from --postgres-password): a secret is not taken from the "
        "command line, where others on the machine can read it; put it into .env (chmod 600 .env).",
    ),
    (
        {},
        {"TRACKBED_MLFLOW_PROT": "1"},
        "TRACKBED_MLFLOW_PROT (from the environment): no such setting. Did you mean TRACKBED_MLFLOW_PORT?",
    ),
    (
        {},
        {"trackbed_gpu": "1"},
        "trackbed_gpu (from the environment): no such setting. Did you mean TRACKBED_GPU?",
    ),
    (
        {},
        {"TRACKBED_FAST_PATH": "off"},
        "TRACKBED_FAST_PATH (from the environment): no such setting. Did you mean TRACKBED_MLFLOW_FAST_PATH?",
    ),
    (
        {},
        {"TRACKBED_JOBS": "on"},
        "TRACKBED_JOBS (from the environment): no such setting. Did you mean TRACKBED_MLFLOW_JOBS?",
    ),
    (
        {},
        {"TRACKBED_JOBS_MODELS": "any"},
        "TRACKBED_JOBS_MODELS (from the environment): no such setting. Did you mean TRACKBED_MLFLOW_JOBS_MODELS?",
    ),
    (
        {},
        {"TRACKBED_MINIO_ROOT_USER": "1"},
        "TRACKBED_MINIO_ROOT_USER (from the environment): no such setting. Did you mean TRACKBED_S3_ACCESS_KEY?",
    ),
    (
        {},
        {"TRACKBED_JUPYTER_TOKEN": "tooshort"},
        "JUPYTER_TOKEN (from TRACKBED_JUPYTER_TOKEN): must be 16 to 128 letters, digits, _ and -.",
    ),
]


@pytest.mark.parametrize(("flags", "environ", "message"), BAD_NAMES)
def test_bad_name(place: Place, flags: dict[str, str | None], environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        place.load(flags=flags, environ=environ)
    assert caught.value.message == message


def test_folders_in_wrong_places(place: Place, tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        place.load("STATE_DIR=state\n")
    assert caught.value.message == f"STATE_DIR=state (from .env line 1): {FOLDER} Did you mean {place.clone}/state?"
    (tmp_path / "link").symlink_to(place.clone)
    inside = tmp_path / "link" / "state"
    with pytest.raises(SettingError, match=r"must lie outside the clone .*, where `git clean` would delete"):
        place.load("", {"state_dir": str(inside)})
    with pytest.raises(SettingError, match=r"must not hold the state folder .*, or the notebook could read every"):
        place.load("", {"workspace": str(tmp_path)})
    with pytest.raises(SettingError, match=r"must not lie in .*, which holds the secrets. Did you mean "):
        place.load("", {"workspace": str(place.state / "trackbed" / "secrets")})
    assert place.load("", {"workspace": str(place.clone / "work")}).workspace == place.clone / "work"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_an_open_env_with_a_secret_is_refused(place: Place, mode: int) -> None:
    with pytest.raises(SettingError) as caught:
        place.load(f"JUPYTER_TOKEN={SECRET}\n", mode=mode)
    assert caught.value.message == (
        f"JUPYTER_TOKEN (from .env line 1): others may read this file (mode {mode:04o}) and it "
        "holds a secret; "
        f"run: chmod 600 {place.env}"
    )
    assert place.load("MLFLOW_PORT=1234\nJUPYTER_TOKEN=\n", mode=mode).mlflow_port == 1234


def test_secrets_are_never_shown(place: Place) -> None:
    result = place.load(
        f"JUPYTER_TOKEN={SECRET}\nPOSTGRES_PASSWORD={SECRET}\nS3_SECRET_KEY={SECRET}\n"
        f"HTTPS_PROXY=http://me:{SECRET}@p\n"
    )
    assert result.jupyter_token == SECRET
    for text in (repr(result), str(result), f"{result}", repr(result.explicit), repr(result.origins)):
        assert SECRET not in text


@given(name=st.sampled_from([s.name for s in TABLE]), value=st.text(max_size=70))
def test_any_value_is_taken_or_refused_in_one_line(name: str, value: str) -> None:
    if not BY_NAME[name].flag:
        return
    try:
        Settings.load({name: value}, {}, Path("/nonexistent/clone/.env"), {})
    except SettingError as error:
        assert error.message.isprintable()
        assert error.message.startswith((name, "S3_ENDPOINT is missing", "MLFLOW_PORT", "JUPYTER_PORT"))


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("GPU", "MI100", CHOICES["mi100"]),
        ("GPU", "gpu_mi100", CHOICES["gpu_mi100"]),
        ("GPU", "a100-pcie", CHOICES["a100-pcie"]),
        ("GPU", "k80", CHOICES["k80"]),  # known and unsupported: what to do is said where the machine is known
        ("DEVICES", "1, 0", "1,0"),
        ("DEVICES", "all", "all"),
        ("CULL_IDLE", "off", 0),
        ("CULL_IDLE", "90s", 90),
        ("CULL_IDLE", "30m", 1800),
        ("CULL_IDLE", "12h", 43200),
        ("DATA_VOLUME", "food11", "food11"),
        ("DATA_VOLUME", "~/data", "/home/ada/data"),
        ("JUPYTER_ENV", "A=1 B='x y' C=", {"A": "1", "B": "x y", "C": ""}),
        ("JUPYTER_VOLUMES", "data:/data:ro ~/x:/x /y:/y:rw", ("data:/data:ro", "/home/ada/x:/x", "/y:/y")),
        ("TORCH_INDEX", "https://wheels.example/whl/cu126/", "https://wheels.example/whl/cu126"),
    ],
)
def test_notebook_settings(place: Place, name: str, raw: str, value: object) -> None:
    assert getattr(place.load(environ={f"TRACKBED_{name}": raw}), name.lower()) == value


def test_flags_named_like_those_of_docker(place: Place) -> None:
    result = place.load(flags={"env": "A=1", "volume": "data:/x"})
    assert (result.jupyter_env, result.jupyter_volumes) == ({"A": "1"}, ("data:/x",))
    assert result.origin("JUPYTER_ENV") == "--env" and result.explicit == {
        "JUPYTER_ENV": "A=1",
        "JUPYTER_VOLUMES": "data:/x",
    }
    with pytest.raises(SettingError, match=r"JUPYTER_ENV=A \(from --env\): must be NAME=VALUE"):
        place.load(flags={"env": "A"})


def test_where_backups_go_is_not_remembered(tmp_path: Path) -> None:
    given = {
        "TRACKBED_BACKUP_S3_ACCESS_KEY": "abc",
        "TRACKBED_BACKUP_S3_ENDPOINT": "http://h:1",
        "TRACKBED_BACKUP_S3_SECRET_KEY": "secret-key",
        "TRACKBED_CULL_IDLE": "30m",
    }
    result = Settings.load({}, {"HOME": str(tmp_path), **given}, tmp_path / ".env", remembered={})
    assert result.backup_s3_access_key == "abc" and result.explicit == {"CULL_IDLE": "30m"}
