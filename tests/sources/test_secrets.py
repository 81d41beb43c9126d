"""No credential leaves by any way out: some thousand generated ones in every form of a source, fewer at each way."""

from __future__ import annotations

import logging
import pickle
import random
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import cloudpickle
import psycopg
import pytest
from store_data import fill_tables, write_parquet
from typer.testing import CliRunner

import dde
from dde.cache.storage import Storage
from dde.cli.app import app
from dde.errors import DdeError, SourceError
from dde.sources.connection import Connection, redact
from http_server import running_http

_SIGNS = [
    "::", ":", "@", "/", "?", "=", "&", "#", "%", "%20", "%zz", " ", "'", '"', "\\", "[", "]", ",", ";", "+", "ab", "c",
    "7", "42", "\u00e9", "host=", "user=", "password=", "-", "_", ".", "://", "~", "\t", "$", "{", "}", "*", "|", "^",
]  # fmt: skip


def _secrets(count: int, seed: int) -> Iterator[str]:
    numbers = random.Random(seed)
    for _ in range(count):
        inside = "".join(numbers.choice(_SIGNS) for _ in range(numbers.randint(2, 9)))
        yield numbers.choice([f"Q{inside}Z", f"{inside}ZQ", f"9{inside}QZ"])


def _quoted(secret: str) -> str:
    return "'" + secret.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _escaped(secret: str) -> str:
    return "".join("\\" + sign if sign in " \t\\'" else sign for sign in secret)


def _url(text: str) -> Callable[[str], str]:
    """Return what puts a secret into a URL, as it is for ``{raw}`` and in percent codes for ``{code}``."""
    return lambda secret: text.replace("{raw}", secret).replace("{code}", quote(secret, safe=""))


_FORMS: dict[str, Callable[[str], str]] = {
    **{
        text: _url(text)
        for scheme in (
            "postgresql",
            "postgres",
            "postgresql+psycopg2",
            "mysql",
            "http",
            "https",
            "ftp",
            "sftp",
            "s3",
            "memory",
            "abfs",
            "smb",
        )
        for text in (
            f"{scheme}://ada:{{raw}}@db.example/wandb",
            f"{scheme}://ada:{{raw}}@db.example:5432/wandb?sslmode=require",
            f"{scheme}://ada:{{code}}@[::1]:99/wandb",
            f"{scheme}://:{{code}}@db.example/wandb",
        )
    },
    **{
        text: _url(text)
        for key in ("sig", "token", "X-Amz-Signature", "password", "api_key")
        for text in (
            f"https://h.example/x?a=1&{key}={{code}}",
            f"abfs://c@h.example/x?{key}={{raw}}",
            f"https://h.example/x#{key}={{code}}",
        )
    },
    **{
        text: _url(text)
        for text in (
            "simplecache::https://u:{raw}@h/x",
            "zip://a.parquet::https://u:{raw}@h/x.zip",
            "filecache::zip://*.parquet::s3://u:{code}@h/x.zip",
            "postgresql://h/db?user=u&password={code}&sslmode=prefer",
            "postgresql://ada:{code}@h1:1,[::1]:2,h3/db?sslpassword={code}",
            "jdbc:postgresql://h/db?user=ada&password={code}",
            "DATABASE_URL=postgresql://u:{code}@h/db",
            "dbname='postgresql://u:{code}@h/db'",
            "ada:{raw}@host/db",
        )
    },
    "password in quotes": lambda secret: f"host=::1 user=ada password={_quoted(secret)} dbname=wandb",
    "password first": lambda secret: f"password={_quoted(secret)} host=::1 dbname=wandb",
    "spaces around =": lambda secret: f"host = h user = ada password  =  {_quoted(secret)} dbname = wandb",
    "escaped password": lambda secret: f"host=h password={_escaped(secret)} user=ada",
    "escaped password last": lambda secret: f"hostaddr=fe80::1 password={_escaped(secret)}",
    "misspelt": lambda secret: f"passwrd={_quoted(secret)} host=h",
}


def _found(secret: str, *where: object) -> list[str]:
    """Return those of the forms of a secret that stand in any of these."""
    texts = [place if isinstance(place, bytes) else str(place).encode() for place in where]
    return [form for form in (secret, quote(secret, safe=""), quote(secret)) if any(form.encode() in t for t in texts)]


def _chain(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        yield repr(error)
        yield " ".join(getattr(error, "__notes__", ()))
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("form", _FORMS)
def test_no_generated_secret_is_shown_or_pickled(form: str) -> None:
    for secret in _secrets(100, seed=len(form)):
        if "?" in form and "={raw}" in form and "&" in secret:
            continue  # ends the parameter, for every program
        text = _FORMS[form](secret)
        connection = Connection(text)
        shown = redact(text)
        assert not _found(secret, shown, repr(connection), connection.location, pickle.dumps(connection)), text
        assert redact(shown) == shown
        assert not _found(secret, connection.scrub(f"can't open {text!r}: {secret}, {quote(secret)}")), text
        assert not _found(secret, repr(Storage(text)), pickle.dumps(Storage(text))), text


@pytest.mark.parametrize(
    "path",
    [
        "/data/a:b@c/x", "C:\\data\\x@1", "C:/x@2/y:3", "s3://bucket/a@b/c", "https://h/a@b:c/d?x=1",
        "https://h:8080/a/b", "hf://datasets/a/b@main/x", "abfs://c@acc.dfs.core.windows.net/p",
        "zip://a.parquet::/data/x.zip", "file:///C:/x", "year=2024/month=1", "tokens=1e9/x", "compass=3/x", "~/a b",
        "gs://b/2024-01-01T10:00:00/x@v", "s3://b/y=1/key=3.parquet", "https://h/x?version=3&download=1", "data ",
        "postgresql://h:5432/db?user=me@server", "postgresql://u@%2Ftmp/db", "memory://x/y",
    ],
)  # fmt: skip
def test_what_holds_no_secret_stays_readable(path: str) -> None:
    assert redact(path) == path
    assert not Connection(path).has_secret


def test_a_folder_that_looks_like_a_user_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs:a@b").mkdir()
    assert redact("runs:a@b") == "runs:a@b"


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://ada:{}@127.0.0.1:1/db",
        "postgresql://ada:x@{}@127.0.0.1:1/db",
        "postgresql://ada:{}/x@127.0.0.1/db",
    ],
)
def test_a_password_that_can_be_read_in_two_ways_reaches_no_network(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*args: object, **options: object) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(psycopg, "connect", connect)
    text = dsn.format("ge@heim")
    with pytest.raises(SourceError, match=r"not a valid connection string.*Percent-encode") as raised:
        dde.WandBStore(text).runs()
    assert not [part for part in _chain(raised.value) if "heim" in part]


def test_two_connections_that_differ_in_a_secret_alone_keep_theirs() -> None:
    first, second = Connection("https://ada:one@h/x"), Connection("https://ada:two@h/x")
    assert first.redacted == second.redacted
    assert first != second
    assert (first.reveal(), second.reveal()) == ("https://ada:one@h/x", "https://ada:two@h/x")


@pytest.mark.parametrize(
    "url",
    [
        "http://ada:{}@127.0.0.1:9/x", "http://127.0.0.1:9/x?sig={}", "ftp://ada:{}@127.0.0.1:9/x", "ada:{}@host/wandb",
        "simplecache::http://ada:{}@127.0.0.1:9/x", "memory://ada:{}@nothing/x", "sftp://ada:{}@127.0.0.1:9/x",
        "abfs://ada:{}@127.0.0.1/x", "host=127.0.0.1 port=1 password='{}'", "postgresql://ada:{}@127.0.0.1:1/wandb",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["tables", "store"])
def test_errors_of_every_form(url: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for secret in ("ge%40heim::77", "geheim77", "ge%2Fheim"):
        text = url.format(secret)
        arguments = (text, None) if place == "tables" else (None, text)
        with pytest.raises(SourceError) as raised:
            dde.open_lineages(*arguments, cache_dir=tmp_path / "cache")
        shown = "".join(traceback.format_exception(raised.value))
        assert "heim" not in " ".join(_chain(raised.value)), text
        assert "heim" not in shown.replace(__file__, ""), text
        run = CliRunner().invoke(
            app, ["ls", *(["-"] if place == "store" else []), text, "--cache-dir", str(tmp_path / "cache")]
        )
        assert run.exit_code == 1
        assert "heim" not in run.output


def _check_all_ways_out(
    dataset: object, source: object, secret: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ds = dataset
    assert not _found(secret, repr(ds), ds._repr_html_(), ds.attrs, ds.encoding)  # type: ignore[attr-defined]
    assert not _found(secret, pickle.dumps(ds), cloudpickle.dumps(ds))
    assert not _found(secret, repr(source), vars(source), pickle.dumps(source))
    loaded = ds.load()  # type: ignore[attr-defined]
    loaded.to_zarr(folder / "saved.zarr", consolidated=False)
    loaded.to_netcdf(folder / "saved.nc", engine="h5netcdf")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any("data_cache" in str(path) for path in files)
    for path in files:
        assert not _found(secret, str(path), path.read_bytes()), path
    assert not _found(secret, caplog.text)


def test_every_way_out_of_tables_and_exports_behind_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    served = tmp_path / "served"
    suite = dde.tutorial.make_suite(served / "suite", "tiny")
    write_parquet(served / "export")
    (tmp_path / "out").mkdir()
    secret = next(s for s in _secrets(1000, seed=3) if s.isascii() and len(set("@:/?%") & set(s)) == 5)
    with running_http(served, f"ada:{secret}") as host:
        url = f"http://ada:{quote(secret, safe='')}@{host}/"
        tables = url + Path(suite.data).relative_to(served).as_posix() + "/"
        cache = tmp_path / "out" / "data_cache"
        opened = dde.DataDecideEvolved(tables, url + "export/", cache_dir=cache)
        dataset = opened.repository.to_dataset(params="4M", metrics=["mmlu_average"])
        _check_all_ways_out(dataset, opened.repository.pretraining_source, secret, tmp_path / "out", caplog)
        assert int(dataset.mmlu_average.notnull().sum()) > 0
        assert not _found(secret, opened._repr_html_(), repr(opened.repository.posttraining_source))
        shown = [
            *opened.repository.pretraining_source.set_aside,
            *map(repr, opened.repository.pretraining_source.files),
        ]
        assert not _found(secret, *shown)
        # A table that is damaged is named, and one that is gone.
        broken = served / "broken" / "x.parquet"
        broken.parent.mkdir()
        broken.write_bytes(b"PAR1 nothing PAR1")
        with pytest.raises(SourceError, match="parquet") as raised:
            dde.DataDecide(url + "broken/")
        assert not _found(secret, *_chain(raised.value))


def test_every_way_out_of_a_cache_behind_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    suite = dde.tutorial.make_suite(tmp_path / "suite", "tiny")
    monkeypatch.chdir(tmp_path)
    secret = "ge:heim77"
    url = f"memory://ada:{secret}@store/data_cache"
    opened = dde.DataDecideEvolved(suite.data, suite.wandb, cache_dir=url)
    dataset = opened.repository.to_dataset(params="4M", metrics=["mmlu_average"])
    assert not _found(secret, pickle.dumps(dataset), cloudpickle.dumps(dataset), dataset.attrs, vars(opened.repository))
    dataset.load()
    assert not _found(secret, caplog.text, repr(dataset))
    for place in (Storage("http://ada:geheim77@127.0.0.1:9/cache"), Storage("ftp://ada:geheim77@127.0.0.1:9/cache")):
        with pytest.raises(OSError) as raised:
            place.write({"x": b""})
        assert "geheim77" not in " ".join(_chain(raised.value))


def test_every_way_out_of_a_database(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The server trusts its own user, whatever the password.
    fill_tables(database, "0.1")
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    user, rest = database.removeprefix("postgresql://").split(":", 1)
    place = rest[rest.index("@") + 1 :]
    for secret in [s for s in _secrets(40, seed=5) if "\0" not in s][:12]:
        for dsn in (
            f"postgresql://{user}:{quote(secret, safe='')}@{place}",
            f"{psycopg.conninfo.make_conninfo(database, password='')} password={_quoted(secret)}",
        ):
            store = dde.WandBStore(dsn)
            assert len(store.runs()) == 3
            dataset = dde.open_lineages(
                None, dsn, state="all", metrics=["train_loss"], cache_dir=tmp_path / "data_cache"
            )
            dataset.load()
            assert not _found(secret, repr(dataset), dataset.attrs, pickle.dumps(dataset), pickle.dumps(store))
            assert not _found(secret, dataset._repr_html_(), repr(vars(store)), caplog.text)
    files = [path for path in (tmp_path / "data_cache").rglob("*") if path.is_file()]
    assert files
    for secret in _secrets(40, seed=5):
        assert not any(_found(secret, str(path), path.read_bytes()) for path in files)


def test_an_export_behind_a_url_that_goes_while_it_is_open(tmp_path: Path) -> None:
    write_parquet(tmp_path / "export")
    with running_http(tmp_path, "ada:ge@heim77") as host:
        url = f"http://ada:ge%40heim77@{host}/export/"
        store = dde.WandBStore(url)
        assert len(store.runs()) == 3
        (tmp_path / "export" / "runs_history.parquet").write_bytes(b"PAR1 nothing PAR1")
        with pytest.raises(DdeError, match=r"runs_history\.parquet") as raised:
            store.history(["b_sft"], ["train_loss"])
        assert "heim77" not in " ".join(_chain(raised.value))
        (tmp_path / "export" / "runs_metadata.parquet").unlink()
        with pytest.raises(SourceError) as gone:
            dde.WandBStore(url).runs()
        assert "heim77" not in " ".join(_chain(gone.value))
