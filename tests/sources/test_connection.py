from __future__ import annotations

import copy
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import cloudpickle
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dde.errors import SourceError
from dde.sources.connection import CONNECTION_VARIABLE, Connection, redact


@pytest.mark.parametrize(
    ("text", "kind", "revealed"),
    [
        ("postgresql://h/db", "postgres", "postgresql://h/db"),
        ("postgres://h/db", "postgres", "postgres://h/db"),
        ("postgresql+psycopg://u@h/db", "postgres", "postgresql://u@h/db"),
        ("postgresql+psycopg2://u:pw@h/db", "postgres", "postgresql://u:pw@h/db"),
        (" POSTGRESQL://h/db ", "postgres", "POSTGRESQL://h/db"),
        ("host=h dbname=db", "postgres", "host=h dbname=db"),
        ("dbname = db", "postgres", "dbname = db"),
        ("service=wandb", "postgres", "service=wandb"),
        ("data", "files", os.path.abspath("data")),
        ("~/wandb", "files", os.path.expanduser("~/wandb")),
        ("s3://bucket/export", "files", "s3://bucket/export"),
        ("file:///data/export", "files", "file:///data/export"),
        ("simplecache::https://h/export", "files", "simplecache::https://h/export"),
        (Path("/data/export"), "files", "/data/export"),
    ],
)
def test_what_a_connection_is(text: str | Path, kind: str, revealed: str) -> None:
    connection = Connection(text)
    assert connection.kind == kind
    assert connection.reveal() == revealed


def test_a_folder_whose_name_looks_like_a_setting_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "host=a").mkdir()
    assert Connection("host=a").kind == "files"


@pytest.mark.parametrize("nothing", ["", "  ", 3, None])
def test_no_connection_at_all(nothing: object) -> None:
    with pytest.raises(SourceError, match=r"does not name a store.*Give a postgresql:// URL"):
        Connection(nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:hush@h:5433/db?sslmode=require", "postgresql://u@h:5433/db?sslmode=require"),
        ("postgresql://:hush@h/db", "postgresql://h/db"),
        ("postgresql:///db?host=/tmp&user=u&password=hush", "postgresql:///db?host=/tmp&user=u"),
        ("postgresql://u@h/db?%70assword=hush&sslpassword=hush", "postgresql://u@h/db"),
        ("postgresql://h/db?passfile=/home/u/.pgpass", "postgresql://h/db?passfile=/home/u/.pgpass"),
        ("postgresql://u:hush@[::1]:5432/db?password=hush", "postgresql://u@[::1]:5432/db"),
        ("postgresql://[::1]/db?password=hush", "postgresql://[::1]/db"),
        ("postgresql://h1:1,h2:2/db", "postgresql://h1:1,h2:2/db"),
        ("postgresql://h:5432/db?user=me@server", "postgresql://h:5432/db?user=me@server"),
        # Not valid, so that a message will show them: nothing of the password may be left.
        ("postgresql://u:hu@sh@h/db", "postgresql://u@h/db"),
        ("postgresql://u:hu/sh@h/db", "postgresql://u@h/db"),
        ("postgresql://u:hu?sh@h/db", "postgresql://u@h/db"),
        ("postgresql://u:12/hush@h/db", "postgresql://u@h/db"),
        ("u:hush@h/db", "u@h/db"),
        ("host=h password=hush dbname=db", "host=h dbname=db"),
        ("host=h password='hu sh\\' x' dbname=db", "host=h dbname=db"),
        ("PASSWORD = hush host=h", "host=h"),
        ("host=h password='hush left open", "host=h"),
        ("host=h password=hu sh dbname=db", "host=h dbname=db"),
        ("host=h passwrd=hush", "host=h"),
        ("postgresql://u@h/db?sslkey=/k&passwrd=hush", "postgresql://u@h/db?sslkey=/k"),
        ("https://token:hush@h/x?a=1&X-Amz-Signature=hush", "https://h/x?a=1"),
        ("simplecache::https://u:hush@h/x", "simplecache::https://h/x"),
        ("s3://key:hush@bucket/x", "s3://key@bucket/x"),
        ("github://org:repo@main/x", "github://org:repo@main/x"),
        ("/data/wandb", "/data/wandb"),
    ],
)
def test_redacted(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert "hush" not in redact(text)
    assert redact(redact(text)) == shown


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=4))
def test_no_password_shows(password: str) -> None:
    password = f"x{password}x"
    quoted = "'" + password.replace("\\", "\\\\").replace("'", "\\'") + "'"
    for text in (
        f"postgresql://u:{quote(password, safe='')}@h.example:5432/db",
        f"postgresql://h.example/db?user=u&password={quote(password, safe='')}&sslmode=prefer",
        f"host=h.example user=u password={quoted} sslmode=prefer",
    ):
        connection = Connection(text)
        assert psycopg.conninfo.conninfo_to_dict(connection.reveal())["password"] == password
        # What is shown is itself a valid connection, so that libpq can look for the password.
        settings = psycopg.conninfo.conninfo_to_dict(connection.redacted)
        assert settings["host"] == "h.example"
        assert "password" not in settings
        for shown in (repr(connection), str(connection), f"{connection}", repr([connection])):
            assert password not in shown
            assert quote(password, safe="") not in shown
        assert password.encode() not in pickle.dumps(connection)
        assert quote(password, safe="").encode() not in cloudpickle.dumps(connection)


def test_a_copy_in_this_process_has_the_credentials(caplog: pytest.LogCaptureFixture) -> None:
    connection = Connection("postgresql://u:hush@h/copy")
    for other in (pickle.loads(pickle.dumps(connection)), copy.deepcopy(connection)):
        assert other == connection
        assert hash(other) == hash(connection)
        assert other.reveal() == "postgresql://u:hush@h/copy"
        assert not other.lost_secret
    with caplog.at_level(logging.INFO):
        logging.getLogger("test").info("%s %r", connection, connection)
    assert "hush" not in caplog.text


_WORKER = """
import pickle, sys
connection = pickle.loads(bytes.fromhex(sys.argv[1]))
print(connection.reveal(), connection.lost_secret)
"""


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, "postgresql://u@h/db True"),
        ("postgresql://u:hush@h/db", "postgresql://u:hush@h/db False"),
        ("postgresql+psycopg://u:hush@h/db", "postgresql://u:hush@h/db False"),
        ("host=h user=u dbname=db password=hush", "host=h user=u dbname=db password=hush False"),
        ("postgresql://u:hush@other/db", "postgresql://u@h/db True"),  # of another server: not sent there
    ],
)
def test_a_worker_finds_credentials_in_its_surroundings(variable: str | None, expected: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != CONNECTION_VARIABLE}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    if variable is not None:
        environment[CONNECTION_VARIABLE] = variable
    state = pickle.dumps(Connection("postgresql://u:hush@h/db")).hex()
    run = subprocess.run(
        [sys.executable, "-c", _WORKER, state], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout.strip() == expected


def test_messages_of_the_driver_are_scrubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "other")
    connection = Connection("postgresql://u:hu%40sh@h/db?sslpassword=key")
    said = 'can\'t parse "postgresql://u:hu%40sh@h/db?sslpassword=key" (hu@sh, hu%40sh, key, other)'
    assert connection.scrub(said) == 'can\'t parse "postgresql://u@h/db" (***, ***, ***, ***)'


def test_redact_of_other_objects() -> None:
    class Store:
        description = "postgresql://u:hush@h/db"

    assert redact(Store()) == "postgresql://u@h/db"
    assert redact(Connection("postgresql://u:hush@h/db")) == "postgresql://u@h/db"
    assert redact(3) == "int"
