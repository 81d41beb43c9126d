"""A PostgreSQL server that goes, freezes, refuses or changes while it is asked: one clear error, or all of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from store_data import EXPECTED, EXPECTED_STEP, KEYS, fill_tables
from typer.testing import CliRunner

import dde
from dde.cli.app import app
from dde.errors import SourceError
from dde.sources.ingest import ingest
from dde.sources.postgres import store as module
from dde.sources.postgres.store import PostgresStore
from dde.sources.wandb.store import WandBStore
from postgres_server import PostgresServer, error_message, frozen, pooler, running_server

_IDS = ["b_sft", "a_dpo"]


def _assert_whole(store: Any) -> None:
    history = store.history(_IDS, KEYS)
    assert history.step.tolist() == EXPECTED_STEP
    for key, values in EXPECTED.items():
        np.testing.assert_array_equal(history.values[key], values, err_msg=key)


def _chain(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield f"{error} {error!r}"
        error = error.__cause__ or error.__context__


def _slow_log(dsn: str, seconds: float) -> str:
    """Make views of the tables, in the schema ``slow``, whose log takes so long a row; return the DSN."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            f"""CREATE SCHEMA slow;
            CREATE VIEW slow.wandb_runs AS SELECT * FROM public.wandb_runs;
            CREATE VIEW slow.wandb_history AS SELECT h.* FROM public.wandb_history h
                WHERE (SELECT pg_sleep({seconds}) IS NOT NULL FROM (SELECT h.id OFFSET 0) s)"""
        )
    return f"{dsn}&schema=slow"


def _backend(dsn: str) -> int:
    """Return the process of the session that is asking, once there is one."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(600):
            row = connection.execute(
                """SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'
                AND pid <> pg_backend_pid() AND query LIKE '%COPY%'"""
            ).fetchone()
            if row is not None:
                return int(row[0])
            time.sleep(0.05)
    raise AssertionError("nobody asks")


class _Asked(threading.Thread):
    """A question that is asked meanwhile."""

    def __init__(self, store: PostgresStore) -> None:
        super().__init__(daemon=True)
        self.store = store
        self.error: BaseException | None = None
        self.history: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.history = self.store.history(_IDS, KEYS)
        except BaseException as error:
            self.error = error

    def answer(self) -> BaseException | None:
        self.join(60)
        assert not self.is_alive()
        return self.error


@pytest.mark.parametrize("addresses", [1, 3])
def test_a_socket_that_says_nothing_is_given_up(addresses: int) -> None:
    with pooler() as address:
        dsn = f"postgresql://ada:hush@{','.join([address] * addresses)}/wandb"
        with pytest.raises(SourceError, match=r"nothing answered within 2 s.*connect_timeout") as raised:
            PostgresStore(dsn, connect_timeout=2).runs()
        # All of them together have the time of one: the last was begun, and is not waited for.
        tried = [thread for thread in threading.enumerate() if thread.name == "dde-connect"]
        assert bool(tried) == (addresses > 1)
    for thread in tried:
        thread.join(60)
    assert not any("hush" in part for part in _chain(raised.value))


def test_the_first_host_that_answers_is_asked(postgres: PostgresServer, database: str) -> None:
    fill_tables(database, "0.1")
    name = database.split("?")[0].rpartition("/")[2]
    refusal = error_message("57P03", "the database system is starting up")
    with pooler() as silent, pooler(refusal) as starting, pooler(behind=str(postgres.folder)) as good:
        for hosts in (f"{silent},{good}", f"{starting},{good}", f"127.0.0.1:1,{good}", f"{good},{silent}"):
            _assert_whole(PostgresStore(f"postgresql://postgres@{hosts}/{name}", connect_timeout=4))
        with pytest.raises(SourceError, match=r"accepts no connections at present.*starting up"):
            PostgresStore(f"postgresql://postgres@{starting},127.0.0.1:1/{name}").runs()


def test_a_connect_timeout_that_is_no_number() -> None:
    with pytest.raises(SourceError, match=r"connect_timeout.*not a number of seconds"):
        PostgresStore("postgresql://ada@127.0.0.1/wandb?connect_timeout=soon").runs()


def test_a_stated_connect_timeout_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pooler() as address, pytest.raises(SourceError, match="within 2 s"):
        PostgresStore(f"postgresql://ada@{address}/wandb?connect_timeout=2").runs()
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "2")
    with pooler() as address, pytest.raises(SourceError, match="within 2 s"):
        PostgresStore(f"postgresql://ada@{address}/wandb").runs()


@pytest.mark.parametrize(
    ("code", "said", "match"),
    [
        ("57P03", "the database system is starting up", r"accepts no connections at present.*starting up.*in a moment"),
        ("57P03", "the database system is shutting down", "accepts no connections at present"),
        ("53300", "sorry, too many clients already", r"no connection left.*too many clients.*limit raised"),
        ("53300", "remaining connection slots are reserved for roles with the SUPERUSER", "no connection left"),
        ("08P01", "no more connections allowed (max_client_conn)", "no connection left"),
        ("08P01", "unsupported startup parameter in options: search_path", r"pooler.*schema= for the schema"),
        ("3D000", 'database "wandb" does not exist', r"no such database.*postgresql://user@host/database"),
        ("28000", 'no pg_hba.conf entry for host "10.0.0.1"', "refuses the login of this user"),
        ("28P01", 'password authentication failed for user "ada"', "refuses the login of this user"),
        ("XX000", "something else", "can't be reached, .*something else"),
    ],
)
def test_what_is_said_before_a_session(code: str, said: str, match: str) -> None:
    with pooler(error_message(code, f"{said} hush77")) as address, pytest.raises(SourceError, match=match) as raised:
        PostgresStore(f"postgresql://ada:hush77@{address}/wandb").runs()
    assert not any("hush77" in part for part in _chain(raised.value))
    assert isinstance(raised.value, OSError)


def test_too_many_connections_of_a_role(postgres: PostgresServer, database: str) -> None:
    fill_tables(database, "0.1")
    postgres.execute("CREATE ROLE crowd LOGIN CONNECTION LIMIT 0")
    with pytest.raises(SourceError, match=r"no connection left.*too many connections for role"):
        PostgresStore(database.replace("postgres:@", "crowd@")).runs()


def test_a_frozen_server_is_given_up(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_tables(database, "0.1")
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.5)
    asked = _Asked(PostgresStore(_slow_log(database, 0.2), statement_timeout=2))
    with frozen(_backend(database)):
        error = asked.answer()
    assert isinstance(error, SourceError)
    assert "did not answer for 2.5 s" in str(error)
    assert asked.history is None
    _assert_whole(PostgresStore(database))


def test_a_server_that_freezes_before_it_takes_a_session(database: str) -> None:
    with running_server() as own:
        dsn = own.new_database()
        with frozen(own.pid), pytest.raises(SourceError, match="nothing answered within 2 s"):
            PostgresStore(dsn, connect_timeout=2).runs()


def test_a_session_that_an_administrator_ends(postgres: PostgresServer, database: str) -> None:
    fill_tables(database, "0.1")
    asked = _Asked(PostgresStore(_slow_log(database, 0.5)))
    postgres.execute(f"SELECT pg_terminate_backend({_backend(database)})")
    error = asked.answer()
    assert isinstance(error, SourceError)
    assert "closed the connection before its answer was complete" in str(error)
    assert "administrator" in str(error)
    asked = _Asked(PostgresStore(f"{database}&schema=slow"))
    postgres.execute(f"SELECT pg_cancel_backend({_backend(database)})")
    error = asked.answer()
    assert isinstance(error, SourceError)
    assert "cancelled" in str(error)


def test_a_server_that_goes_before_during_and_after(tmp_path: Path) -> None:
    with running_server() as own:
        dsn = own.new_database()
        fill_tables(dsn, "0.1")
        dataset = dde.open_lineages(None, dsn, state="all", metrics=["train_loss"], cache_dir=None)
        asked = _Asked(PostgresStore(_slow_log(dsn, 0.5)))
        _backend(dsn)
        own.stop()
        error = asked.answer()
        assert isinstance(error, SourceError)
        assert "closed the connection" in str(error)
        assert asked.history is None
        for question in (
            lambda: dataset.train_loss.load(),
            lambda: dde.open_lineages(None, dsn, cache_dir=None),
        ):
            with pytest.raises(SourceError, match=r"can't be reached.*Check host"):
                question()


def test_a_shorter_limit_of_time_is_kept(postgres: PostgresServer, database: str) -> None:
    fill_tables(database, "0.1")
    slow = _slow_log(database, 5)
    postgres.execute("CREATE ROLE hasty LOGIN; ALTER ROLE hasty SET statement_timeout = '300ms'")
    with psycopg.connect(database) as connection:
        connection.execute("GRANT USAGE ON SCHEMA slow TO hasty; GRANT SELECT ON ALL TABLES IN SCHEMA slow TO hasty")
    for dsn in (slow + "&options=-cstatement_timeout%3D300", slow.replace("postgres:@", "hasty@")):
        for limit in (300.0, None):
            # With a longer limit the whole log would come.
            with pytest.raises(SourceError, match="took longer than the time allowed"):
                PostgresStore(dsn, statement_timeout=limit).history(_IDS, KEYS)
    with pytest.raises(SourceError, match="took longer than the time allowed"):
        PostgresStore(slow + "&options=-cstatement_timeout%3D1h", statement_timeout=0.3).history(_IDS, KEYS)


def test_a_standby_that_gives_a_question_up_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server() as own:
        dsn = own.new_database()
        fill_tables(dsn, "0.1")
        _slow_log(dsn, 0.3)
        name = dsn.split("?")[0].rpartition("/")[2]
        with own.standby() as url:
            there = url.format(name)
            asked = _Asked(PostgresStore(f"{there}&schema=slow"))
            _backend(there)
            pauses: list[float] = []
            monkeypatch.setattr(module.time, "sleep", pauses.append)
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("DELETE FROM wandb_history WHERE run_id = 'unknown'")
                connection.execute("VACUUM wandb_history")
            assert asked.answer() is None
            assert pauses, "the standby gave nothing up"
            assert asked.history.step.tolist() == EXPECTED_STEP
            _assert_whole(PostgresStore(there))


def test_asking_again_is_bounded_and_starts_afresh(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_tables(database, "0.1")
    with psycopg.connect(database) as connection:
        connection.execute(
            """CREATE TABLE calm (really boolean);
            CREATE FUNCTION upset(id int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
                IF id = 4 AND NOT EXISTS (SELECT FROM calm) THEN
                    RAISE 'canceling statement due to conflict with recovery' USING ERRCODE = '40001';
                END IF;
                RETURN true;
            END $$;
            ALTER TABLE wandb_history RENAME TO log;
            CREATE VIEW wandb_history AS SELECT * FROM log WHERE upset(id)"""
        )
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    with pytest.raises(SourceError, match=r"cancelled the query repeatedly.*conflict with recovery.*primary"):
        PostgresStore(database).history(_IDS, KEYS)
    assert len(pauses) == 3
    assert pauses == sorted(pauses)

    def calm(seconds: float) -> None:
        with psycopg.connect(database) as connection:
            connection.execute("INSERT INTO calm VALUES (true)")

    monkeypatch.setattr(module.time, "sleep", calm)
    _assert_whole(PostgresStore(database))


def test_rows_that_a_policy_hides_are_an_error(postgres: PostgresServer, database: str) -> None:
    fill_tables(database, "0.1")
    with psycopg.connect(database) as connection:
        connection.execute(
            """GRANT SELECT ON wandb_runs, wandb_history TO ada;
            ALTER TABLE wandb_history ENABLE ROW LEVEL SECURITY;
            CREATE POLICY early ON wandb_history FOR SELECT TO ada USING (step < 200);
            CREATE SCHEMA shown;
            CREATE VIEW shown.wandb_runs AS SELECT * FROM public.wandb_runs;
            CREATE VIEW shown.wandb_history AS SELECT * FROM public.wandb_history;
            GRANT USAGE ON SCHEMA shown TO ada; GRANT SELECT ON ALL TABLES IN SCHEMA shown TO ada"""
        )
    locked = PostgresStore(postgres.locked(database))
    for question in (lambda: locked.history(_IDS, KEYS), locked.runs, locked.metric_names):
        with pytest.raises(SourceError, match=r"only some of the rows.*row-level security.*BYPASSRLS"):
            question()
    # The owner sees all, and so does whoever reads the owner's views.
    _assert_whole(PostgresStore(database))
    _assert_whole(PostgresStore(postgres.locked(database), schema="shown"))


def test_through_a_pooler(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    fill_tables(database, "0.1", schema='"My Runs"')
    with pooler(behind=str(postgres.folder)) as address:
        dsn = f"postgresql://postgres@{address}/{database.split('?')[0].rpartition('/')[2]}"
        with pytest.raises(SourceError, match=r"pooler that accepts no startup options.*schema="):
            PostgresStore(f"{dsn}?options=-csearch_path%3Dx").runs()
        with pytest.raises(SourceError, match=r"no table wandb_runs on the search path.*'My Runs'.*schema="):
            PostgresStore(dsn).runs()
        _assert_whole(PostgresStore(dsn, schema="My Runs"))
        _assert_whole(WandBStore(f"{dsn}?schema=My%20Runs"))
        keywords = psycopg.conninfo.make_conninfo("", **psycopg.conninfo.conninfo_to_dict(dsn))
        _assert_whole(WandBStore(f"{keywords} schema='My Runs'"))
        _assert_whole(dde.DataDecideEvolved(None, dsn, schema="My Runs").repository.posttraining_source)
        options: dict[str, Any] = {"state": "all", "metrics": ["train_loss"], "cache_dir": None}
        one = dde.open_lineages(dsn, schema="My Runs", **options)
        assert one.attrs["posttraining_source"] == f"{dsn}?schema=My%20Runs"
        other = dde.open_lineages(None, one.attrs["posttraining_source"], **options)
        assert one.identical(other)
        run = CliRunner().invoke(app, ["coverage", dsn, "--schema", "My Runs", "--no-cache"])
        assert run.exit_code == 0
        assert "b_sft" in run.output


def test_a_schema_that_is_not_there(database: str, tmp_path: Path) -> None:
    fill_tables(database, "0.1", schema="kept")
    with pytest.raises(SourceError, match=r"no table wandb_runs in the schema 'lost', but one in 'kept'"):
        PostgresStore(database, schema="lost").runs()
    with pytest.raises(SourceError, match="is not a database, so it has no schema"):
        WandBStore(tmp_path, schema="kept")
    with pytest.raises(SourceError, match="already open"):
        WandBStore(PostgresStore(database), schema="kept")
    with pytest.raises(SourceError, match="without a store"):
        dde.DataDecideEvolved(None, None, schema="kept")


def test_a_schema_that_this_user_may_not_look_into(postgres: PostgresServer, database: str) -> None:
    fill_tables(database, "0.1", schema="hidden")
    with pytest.raises(SourceError, match=r"'hidden' has one, but this user has no access.*USAGE"):
        PostgresStore(postgres.locked(database)).runs()
    with pytest.raises(SourceError, match=r"permission denied for schema hidden|has no access"):
        PostgresStore(postgres.locked(database), schema="hidden").runs()


def test_ingest_into_a_schema(database: str, real_data: Path) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE SCHEMA mirror")
    report = ingest(real_data, f"{database}&schema=mirror")
    assert report.added
    assert len(PostgresStore(database, schema="mirror").runs()) == len(report.added)
    assert not ingest(real_data, f"{database}&schema=mirror").added


def test_one_snapshot_while_the_log_grows(database: str) -> None:
    fill_tables(database, "0.1")
    stop = threading.Event()

    def log() -> None:
        with psycopg.connect(database) as connection:
            step = 1
            while not stop.is_set():
                # Both runs log each step together.
                rows = [(run, step, json.dumps({"x": step})) for run in ("first", "second")]
                connection.cursor().executemany(
                    "INSERT INTO wandb_history (run_id, step, metrics) VALUES (%s, %s, %s)", rows
                )
                connection.commit()
                step += 1

    writer = threading.Thread(target=log)
    writer.start()
    try:
        lengths = []
        for _ in range(25):
            history = PostgresStore(database).history(["first", "second"], ["x"])
            counts = np.bincount(history.run, minlength=2)
            assert counts[0] == counts[1]
            assert history.step.tolist() == [*range(1, counts[0] + 1)] * 2
            np.testing.assert_array_equal(history.values["x"], history.step)
            lengths.append(counts[0])
    finally:
        stop.set()
        writer.join()
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0]
