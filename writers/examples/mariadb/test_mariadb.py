"""What the writer promises, against a real mariadbd, seen from the server and not from the writer's word."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "writer-api" / "python"))

import options  # noqa: E402
from client import Connection, ServerError, name, quoted  # noqa: E402
from fixture import SERVER, Server  # noqa: E402
from private_server import private_server  # noqa: E402
from requester import SET, Failed, Load, Subject, python  # noqa: E402

WRITER = python(str(HERE / "holdfast-writer-mariadb"))


class Case(unittest.TestCase):
    server_options: list[str] = ["log_bin=bin"]

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="holdfast-mariadb-")
        self.addCleanup(folder.cleanup)
        os.chmod(folder.name, 0o755)
        self.folder = folder.name
        self.server = Server(f"{folder.name}/app", self.server_options)
        self.before_start()
        self.settings = self.server.start()["settings"]
        self.addCleanup(self.server.stop)

    def before_start(self) -> None:
        pass

    def connect(self) -> Connection:
        context = self.server.session(60)
        self.addCleanup(context.__exit__, None, None, None)
        return context.__enter__()

    def load(self) -> Load:
        def connect():
            session = self.connect()
            return lambda written: session.query(f"INSERT INTO shop.written VALUES ({quoted(written)})")

        return Load(connect)

    def subject(self, **settings: object) -> Subject:
        subject = Subject(WRITER)
        self.addCleanup(subject.__exit__)
        subject.hello("mariadb", {**self.settings, **settings})
        return subject

    def metadata(self, **settings: object) -> dict:
        return self.subject(**settings).call("Identify")["metadata"]

    def prepared(self, **settings: object) -> Subject:
        subject = self.subject(**settings)
        subject.begin_backup()
        subject.phase("PrepareBackup")
        subject.phase("PrepareSnapshot")
        return subject

    def failure(self, subject: Subject, method: str, **parameters: object) -> Failed:
        with self.assertRaises(Failed) as raised:
            subject.call(method, **parameters)
        return raised.exception

    def copy(self) -> str:
        """The data folder, by its original path. A file after the other: only good while nobody writes."""
        root = tempfile.mkdtemp(dir=self.folder)
        there = Path(root) / str(self.server.data).lstrip("/")
        shutil.copytree(self.server.data, there)
        if os.geteuid() == 0:
            for path in [there, *there.rglob("*")]:
                shutil.copystat(self.server.data / path.relative_to(there), path)
                owner = (self.server.data / path.relative_to(there)).stat()
                os.chown(path, owner.st_uid, owner.st_gid)
        return root

    def restoring(self, metadata: dict) -> Subject:
        subject = self.subject()
        subject.begin_restore(metadata)
        return subject


class Holding(Case):
    def test_a_copy_under_hold_has_all_that_was_acknowledged_before_and_nothing_begun_after(self):
        metadata = self.metadata()
        with self.load() as load:
            subject = self.prepared()
            called = time.monotonic()
            mark = subject.phase("Freeze", 20_000)["mark"]
            held = time.monotonic()
            self.assertIsNone(self.server.poke())
            root = self.copy()
            self.assertEqual(load.acknowledged_since(held), set())
            self.assertEqual(subject.call("Thaw"), {"thawed": "released"})
            thawed = time.monotonic()
            load.wait_for(50)
        self.assertRegex(mark["position"], r"^bin\.\d+:\d+$")
        found = self.server.contents_of(root)
        self.assertEqual(load.missing(found, called), set())
        self.assertEqual(load.too_late(found, thawed), set())
        # A restore: check, recover, verify; twice, as after a crash.
        subject = self.restoring(metadata)
        staged = {"roots": [["/", root]]}
        self.assertFalse(any(f["warning"] for f in subject.call("Check", **staged)["findings"]))
        for _ in range(2):
            recovered = subject.call("Recover", staged=staged, context={})
            self.assertIn("started and ended by 10.", recovered["done"][-1])
            self.assertRegex(recovered["mark"]["position"], r"^LSN \d+$")
        self.assertRegex(subject.call("Verify", **staged)["findings"][0]["check"], r"CHECK TABLE of \d+ tables")
        self.assertEqual(set(self.server.contents_of(root)), set(found))
        owners = {path.stat().st_uid for path in (Path(root) / str(self.server.data).lstrip("/")).rglob("*")}
        self.assertEqual(owners, {self.server.data.stat().st_uid})

    def test_reads_go_on_and_an_open_transaction_does_too_but_does_not_commit(self):
        session = self.connect()
        session.query("BEGIN")
        session.query("INSERT INTO shop.written VALUES ('open')")
        subject = self.prepared()
        subject.phase("Freeze", 20_000)
        self.assertEqual(self.server.contents(), [])
        session.query("INSERT INTO shop.written VALUES ('still open')")
        committing = threading.Thread(target=session.query, args=("COMMIT",))
        committing.start()
        self.assertIsNone(self.server.poke())
        self.assertTrue(committing.is_alive())
        self.assertEqual(subject.call("Thaw"), {"thawed": "released"})
        committing.join()
        self.assertEqual(self.server.contents(), ["open", "still open"])

    def test_before_the_freeze_nothing_is_held(self):
        self.connect().query("CREATE TABLE shop.old (id INT) ENGINE=MyISAM")
        self.prepared()
        session = self.connect()
        session.query("SET SESSION lock_wait_timeout = 1")
        for statement in [
            "INSERT INTO shop.old VALUES (1)",
            "CREATE TABLE shop.new (id INT)",
            "DROP TABLE shop.old",
            "INSERT INTO shop.written VALUES ('x')",
            "ALTER TABLE shop.written ADD COLUMN more INT",
        ]:
            session.query(statement)

    def test_tables_without_transactions_and_definitions_are_held_too(self):
        self.connect().query("CREATE TABLE shop.old (id INT) ENGINE=MyISAM")
        subject = self.prepared()
        subject.phase("Freeze", 20_000)
        for statement in ["INSERT INTO shop.old VALUES (1)", "CREATE TABLE shop.new (id INT)", "DROP TABLE shop.old"]:
            session = self.connect()
            session.query("SET SESSION lock_wait_timeout = 1")
            with self.assertRaises(ServerError) as raised:
                session.query(statement)
            self.assertEqual(raised.exception.code, 1205, statement)
        subject.call("Thaw")
        self.connect().query("DROP TABLE shop.old")

    def test_when_the_writer_or_the_requester_dies_the_server_writes_within_a_second(self):
        for ends in ["kill -9", "closed socket"]:
            with self.subTest(ends), self.load() as load:
                subject = self.prepared()
                subject.phase("Freeze", 20_000)
                died = time.monotonic()
                if ends == "kill -9":
                    subject.process.kill()
                else:
                    subject.socket.close()
                self.assertLess(load.longest_wait(died), 1)
                subject.wait()

    def test_the_hold_ends_at_its_deadline(self):
        with self.load() as load:
            subject = self.prepared()
            begun = time.monotonic()
            subject.phase("Freeze", 1000)
            waited = load.longest_wait(time.monotonic())
            self.assertGreater(time.monotonic() - begun, 0.8)
            self.assertLess(waited, 1.5)
            self.assertEqual(subject.wait(), 70)

    def test_the_server_ends_the_hold_of_a_writer_that_is_stopped_and_not_dead(self):
        subject = self.prepared()
        subject.phase("Freeze", 1000)
        subject.process.send_signal(signal.SIGSTOP)
        with self.load() as load:  # comes to an end only if it can write
            load.wait_for(1)
        subject.process.send_signal(signal.SIGCONT)
        # By its own thread or by its timer, whichever comes first when it wakes up.
        self.assertIn(subject.wait(), [70, -signal.SIGALRM])

    def test_thaw_from_any_state_any_number_of_times(self):
        subject = self.subject()
        subject.begin_backup()
        self.assertEqual(subject.call("Thaw"), {"thawed": "was_not_held"})
        subject.phase("PrepareBackup")
        subject.phase("PrepareSnapshot")
        self.assertEqual(subject.call("Thaw"), {"thawed": "was_not_held"})
        subject.phase("Freeze")
        self.assertEqual(self.failure(subject, "Freeze", set=SET, budget_ms=5000).name, "Rejected")
        self.assertIsNotNone(self.server.poke())
        subject.call("Abort")
        subject.call("Abort")

    def test_a_session_that_was_ended_under_the_hold_is_told(self):
        subject = self.prepared()
        mark = subject.phase("Freeze", 20_000)["mark"]
        session_id = mark["proof"].split()[1]
        self.connect().query(f"KILL {session_id}")
        self.assertIsNotNone(self.server.poke())
        error = self.failure(subject, "Thaw")
        self.assertEqual(error.name, "InconsistentSnapshot")

    def test_a_long_statement_makes_it_give_up_in_time_and_nobody_waits_for_it_any_more(self):
        subject = self.prepared()
        slow = self.slow_statement(5)
        begun = time.monotonic()
        error = self.failure(subject, "Freeze", set=SET, budget_ms=1000)
        self.assertEqual((error.name, error.parameters), ("TimedOut", {"action": "freeze", "budget_ms": 1000}))
        self.assertLess(time.monotonic() - begun, 1)
        self.assertIsNotNone(self.server.poke())
        slow.join()

    def test_a_closed_socket_ends_a_freeze_that_waits(self):
        subject = self.prepared()
        slow = self.slow_statement(4)
        subject.send("Freeze", set=SET, budget_ms=60_000)
        self.wait_for("BACKUP STAGE BLOCK_DDL")
        subject.socket.close()
        self.assertEqual(subject.wait(), 71)
        until = time.monotonic() + 2
        while self.runs("BACKUP STAGE BLOCK_DDL"):
            self.assertLess(time.monotonic(), until)
        slow.join()

    def slow_statement(self, seconds: int) -> threading.Thread:
        """One that writes to a table without transactions, which a freeze has to wait for."""
        session, statement = self.connect(), f"INSERT INTO shop.old SELECT SLEEP({seconds})"
        session.query("CREATE TABLE shop.old (id INT) ENGINE=MyISAM")
        slow = threading.Thread(target=session.query, args=(statement,))
        slow.start()
        self.wait_for(statement)
        return slow

    def runs(self, statement: str) -> bool:
        with self.server.session() as session:
            return bool(
                session.query(f"SELECT 1 FROM information_schema.PROCESSLIST WHERE INFO = {quoted(statement)}")
            )

    def wait_for(self, statement: str) -> None:
        until = time.monotonic() + 10
        while not self.runs(statement):
            self.assertLess(time.monotonic(), until)

    def test_another_backup_is_busy_and_a_missing_privilege_is_named_beforehand(self):
        other = self.connect()
        other.query("BACKUP STAGE START")
        subject = self.subject()
        subject.begin_backup()
        self.assertEqual(self.failure(subject, "PrepareBackup", set=SET, budget_ms=2500).name, "Busy")
        other.query("BACKUP STAGE END")
        admin = self.connect()
        admin.query("CREATE USER backup@localhost IDENTIFIED BY 's3cret'")
        secret = f"{self.folder}/secret"
        Path(secret).write_text("s3cret\n")
        os.chmod(secret, 0o600)
        allowed = {"user": "backup", "password-file": secret}
        error = self.failure(self.subject(**allowed), "Identify")
        self.assertEqual(error.name, "Denied")
        self.assertIn("PROCESS", error.why)
        admin.query("GRANT PROCESS ON *.* TO backup@localhost")
        subject = self.subject(**allowed)
        subject.call("Identify")
        subject.begin_backup()
        error = self.failure(subject, "PrepareBackup", set=SET, budget_ms=5000)
        self.assertEqual(error.name, "Denied")
        self.assertIn("RELOAD", error.why)
        admin.query("GRANT RELOAD ON *.* TO backup@localhost")
        subject = self.prepared(**allowed)
        subject.phase("Freeze")
        self.assertEqual(subject.call("Thaw"), {"thawed": "released"})
        Path(secret).write_text("wrong\n")
        self.assertEqual(self.failure(self.subject(**allowed), "Identify").name, "Denied")


class LazyLog(Case):
    """`innodb_flush_log_at_trx_commit=0`: what was acknowledged is in memory for up to a second."""

    server_options = ["innodb_flush_log_at_trx_commit=0"]

    def test_what_was_acknowledged_right_before_the_freeze_is_in_the_copy(self):
        for _ in range(3):
            subject = self.prepared()
            written = self.server.poke()
            subject.phase("Freeze", 20_000)
            root = self.copy()
            subject.call("Thaw")
            self.assertIn(written, self.server.contents_of(root))


class Describing(Case):
    server_options: list[str] = []

    def test_metadata_are_what_the_server_says(self):
        metadata = self.metadata(**{"busy-timeout": "50s", "service": "mariadb.service"})
        data, config = metadata["components"]
        self.assertEqual((data["kind"], data["files"][0]["path"]), ("database", str(self.server.data)))
        self.assertEqual(config["files"][0]["pattern"], "my.cnf")
        self.assertEqual(metadata["capabilities"], {"freeze": True, "recover": True})
        self.assertEqual(metadata, self.metadata(**{"busy-timeout": "50s", "service": "mariadb.service"}))

    def test_a_server_without_a_binary_log_is_held_as_well(self):
        subject = self.prepared()
        self.assertRegex(subject.phase("Freeze")["mark"]["position"], r"^LSN \d+$")
        self.assertIsNone(self.server.poke())
        self.assertEqual(subject.call("Thaw"), {"thawed": "released"})

    def test_whether_it_runs_is_told_truthfully(self):
        subject = self.restoring(self.metadata())
        self.assertEqual(subject.call("OnlineState"), {"state": "ready"})
        self.server.stop()
        self.assertEqual(subject.call("OnlineState"), {"state": "down"})
        error = self.failure(self.subject(), "Identify")
        self.assertEqual((error.name, error.parameters), ("WrongState", {"is": "down", "must": "running"}))

    def test_damaged_and_incomplete_copies_are_refused(self):
        metadata = self.metadata()
        self.server.poke()
        self.server.stop()
        root = self.copy()
        data = Path(root) / str(self.server.data).lstrip("/")
        staged = {"roots": [["/", root]]}
        table = data / "shop" / "written.ibd"
        with open(table, "r+b") as file:
            file.seek(3 * 16384)  # where the rows are
            file.write(os.urandom(16384))
        subject = self.restoring(metadata)
        subject.call("Check", **staged)
        with self.assertRaises(Failed) as raised:
            subject.call("Recover", staged=staged, context={})
            subject.call("Verify", **staged)
        self.assertEqual(raised.exception.name, "RecoveryFailed")
        (data / "ibdata1").unlink()
        self.assertIn("ibdata1", self.failure(subject, "Check", **staged).why)

    def test_data_outside_of_the_folder_are_refused_by_name(self):
        elsewhere = Path(self.folder) / "elsewhere"
        elsewhere.mkdir()
        elsewhere.chmod(0o777)
        self.connect().query(f"CREATE TABLE shop.far (id INT) ENGINE=InnoDB DATA DIRECTORY={quoted(str(elsewhere))}")
        error = self.failure(self.subject(), "Identify")
        self.assertEqual(error.name, "Rejected")
        self.assertIn("far.ibd", error.why)

    def test_a_private_server_does_not_outlive_the_writer(self):
        self.server.stop()
        root = self.copy()
        data = str(Path(root) / str(self.server.data).lstrip("/"))
        script = (
            "import sys; from private_server import *\nwith private_server(*sys.argv[1:3], []) as (c, log):\n"
            " print('up', flush=True); sys.stdin.read()"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", script, SERVER, data],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            cwd=HERE,
            env={**os.environ, "TMPDIR": self.folder},
        )
        self.addCleanup(child.stdin.close)
        self.addCleanup(child.stdout.close)
        self.assertEqual(child.stdout.readline(), b"up\n")
        child.kill()
        child.wait()
        # Its lock on the data is gone: another one starts.
        with private_server(SERVER, data, []) as (connection, _):
            self.assertEqual(connection.value("SELECT 1"), "1")


@unittest.skipUnless(shutil.which("age"), "needs age")
class Encrypted(Case):
    """`file_key_management`: data that cannot be read without a key, which travels sealed."""

    def before_start(self) -> None:
        self.key, self.password = f"{self.folder}/keys.enc", f"{self.folder}/keys.password"
        Path(self.password).write_text("a password\n")
        subprocess.run(
            ["openssl", "enc", "-aes-256-cbc", "-md", "sha1", "-pass", f"file:{self.password}", "-out", self.key],
            input=f"1;{os.urandom(32).hex()}\n".encode(),
            check=True,
            stderr=subprocess.DEVNULL,
        )
        for path in (self.key, self.password):
            os.chmod(path, 0o644)
        self.server.options += [
            "plugin_load_add=file_key_management",
            f"file_key_management_filename={self.key}",
            f"file_key_management_filekey=FILE:{self.password}",
            "innodb_encrypt_tables=FORCE",
            "innodb_encrypt_log=ON",
            "file_key_management_encryption_algorithm=AES_CTR",
            "aria_encrypt_tables=ON",
        ]
        # They must not be newer than the server, which tells its age in whole seconds: up to two seconds too old.
        while time.time() < os.stat(self.password).st_ctime + 2.1:
            time.sleep(0.05)

    def identity(self) -> tuple[str, str]:
        file = f"{self.folder}/identity"
        done = subprocess.run(["age-keygen", "-o", file], capture_output=True, text=True, check=True)
        return file, done.stderr.split()[-1]

    def opened(self, identity: str, key: dict) -> str:
        plain = subprocess.run(["age", "-d", "-i", identity], input=bytes.fromhex(key["sealed"]), capture_output=True)
        where = f"{self.folder}/plain-{os.path.basename(key['path'])}"
        Path(where).write_bytes(plain.stdout)
        return where

    def test_keys_travel_sealed_and_open_the_data_again(self):
        metadata = self.metadata()
        keys = next(c for c in metadata["components"] if c["kind"] == "keys")
        self.assertEqual([k["path"] for k in keys["keys"]], [self.key, self.password])
        written = self.server.poke()
        identity, recipient = self.identity()
        subject = self.prepared()
        sealed = subject.call("SealKeys", recipients=[recipient])["keys"]
        self.assertNotIn("a password", str(sealed))
        self.assertEqual([k["fingerprint"] == "unknown" for k in sealed], [False, True])
        self.assertEqual([k["proof"]["state"] for k in sealed], ["proved", "proved"])
        subject.phase("Freeze")
        root = self.copy()
        subject.call("Thaw")
        plain = [[key["path"], self.opened(identity, key)] for key in sealed]
        self.assertEqual(Path(plain[0][1]).read_bytes(), Path(self.key).read_bytes())
        # The keys of this machine are gone.
        self.server.stop()
        os.unlink(self.key)
        os.unlink(self.password)
        subject = self.restoring(metadata)
        staged = {"roots": [["/", root], [str(self.server.config), str(self.server.config)]]}
        error = self.failure(subject, "Check", **staged)
        self.assertEqual(error.name, "Key")
        staged["keys"] = plain
        subject.call("Check", **staged)
        subject.call("Recover", staged=staged, context={})
        subject.call("Verify", **staged)
        given = [f"--{option}" for option in self.server.options if not option.startswith("file_key_management_file")]
        given += [
            f"--file-key-management-filename={plain[0][1]}",
            f"--file-key-management-filekey=FILE:{plain[1][1]}",
        ]
        data = str(Path(root) / str(self.server.data).lstrip("/"))
        with private_server(SERVER, data, given) as (connection, _):
            self.assertEqual(connection.value("SELECT id FROM shop.written"), written)

    def test_a_key_that_cannot_be_sealed_is_an_error_without_any_of_it(self):
        subject = self.prepared()
        _, recipient = self.identity()
        os.utime(self.key)
        changed = subject.call("SealKeys", recipients=[recipient])["keys"][0]["proof"]
        self.assertEqual(changed["state"], "not_proved")
        error = self.failure(subject, "SealKeys", recipients=["age1nonsense"])
        self.assertEqual(error.name, "Key")
        self.assertIn(self.key, error.why)
        os.unlink(self.key)
        self.assertEqual(self.failure(subject, "SealKeys", recipients=["age1nonsense"]).name, "Key")


class Helpers(unittest.TestCase):
    def test_option_files_are_read_as_the_server_reads_them(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(f"{folder}/my.cnf").write_text(
                "[client]\ninnodb_page_size=4096\n[mysqld]\n# innodb_page_size = 1\ninnodb-page-size = 8192 # small\n"
                "datadir=/elsewhere\nplugin_load_add=provider_lz4\nplugin-load-add = evil\n!includedir /old/more.d/\n"
            )
            os.mkdir(f"{folder}/more.d")
            Path(f"{folder}/more.d/b.cnf").write_text(
                "[mariadb-10.11]\nloose-innodb_undo_tablespaces=3\n!include /old/my.cnf\n"
            )
            Path(f"{folder}/more.d/c.txt").write_text("[mysqld]\ninnodb_page_size=1\n")
            found = options.read(["/old/my.cnf"], lambda path: path.replace("/old", folder))
        self.assertEqual(
            sorted(set(found)),
            ["--innodb_page_size=8192", "--innodb_undo_tablespaces=3", "--plugin-load-add=provider_lz4"],
        )

    def test_whatever_is_in_a_text_or_a_name_it_ends_nothing(self):
        self.assertEqual(quoted("a'b\\"), "'a''b\\\\'")
        self.assertEqual(name("a`b"), "`a``b`")


def load_tests(loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: object) -> unittest.TestSuite:
    if not os.path.exists(SERVER):
        for case in (Holding, LazyLog, Describing, Encrypted):
            unittest.skip("needs mariadbd")(case)
    return tests


if __name__ == "__main__":
    unittest.main()
