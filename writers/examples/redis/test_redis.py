"""What the writer promises, against a real redis-server, seen from the server and not from the writer's word."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "writer-api" / "python"))

from fixture import Server, wait_until_up  # noqa: E402
from requester import SET, Failed, Load, Subject, python  # noqa: E402
from resp import Redis  # noqa: E402

WRITER = python(str(HERE / "holdfast-writer-redis"))


def needs_redis(test):
    return unittest.skipUnless(shutil.which("redis-server"), "needs redis-server")(test)


class Case(unittest.TestCase):
    mode = "aof"

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="holdfast-redis-")
        self.addCleanup(folder.cleanup)
        os.chmod(folder.name, 0o755)
        self.folder = folder.name
        self.server = Server(f"{folder.name}/app", self.mode)
        started = self.server.start()
        self.settings = started["settings"]
        self.addCleanup(self.server.stop)

    def connect(self) -> Redis:
        redis = Redis(self.settings["socket"], 30)
        self.addCleanup(redis.close)
        return redis

    def load(self) -> Load:
        def connect():
            redis = self.connect()
            return lambda name: redis.call("RPUSH", "written", name)

        return Load(connect)

    def subject(self, **settings: object) -> Subject:
        subject = Subject(WRITER)
        self.addCleanup(subject.__exit__)
        subject.hello("redis", {**self.settings, **settings})
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

    def copy(self, root: str) -> str:
        """Exactly what is declared, by its original paths."""
        component = next(c for c in self.declared["components"] if c["kind"] == "database")
        for files in component["files"]:
            original = files["path"] if files["recursive"] else os.path.join(files["path"], files["pattern"])
            there = Path(root) / original.lstrip("/")
            there.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if files["recursive"] else shutil.copy2)(original, there)
        return root

    def roots(self, root: str) -> list[list[str]]:
        return [["/", root]]


class Holding:
    """For both kinds of server."""

    def test_a_copy_under_hold_has_all_that_was_acknowledged_before_and_nothing_begun_after(self):
        self.declared = self.metadata()
        with self.load() as load:
            subject = self.prepared()
            called = time.monotonic()
            mark = subject.phase("Freeze", 20_000)["mark"]
            held = time.monotonic()
            self.assertIsNone(self.server.poke())
            root = self.copy(f"{self.folder}/copy")
            self.assertEqual(load.acknowledged_since(held), set())
            self.assertEqual(subject.call("Thaw"), {"thawed": "released"})
            thawed = time.monotonic()
            load.wait_for(50)
            subject.call("PostSnapshot", set=SET, roots=self.roots(root))
            subject.call("BackupComplete", set=SET, backup_type="full", succeeded=[], stored_logs=[])
        found = self.server.contents_of(root)
        self.assertEqual(load.missing(found, called), set())
        self.assertEqual(load.too_late(found, thawed), set())
        self.assertTrue(mark["position"])
        # The checks of a restore, by Redis' own programs.
        subject = self.subject()
        subject.begin_restore(self.declared)
        for method in ["Check", "Verify"]:
            findings = subject.call(method, roots=self.roots(root))["findings"]
            self.assertEqual([(f["check"], f["warning"]) for f in findings], [(f"redis-check-{self.mode}", False)])

    def test_reads_go_on_and_a_hold_longer_than_its_leases_holds(self):
        subject = self.prepared()
        subject.phase("Freeze", 20_000)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            self.assertEqual(self.server.contents(), [])
        self.assertIsNone(self.server.poke())
        self.assertEqual(subject.call("Thaw"), {"thawed": "released"})
        self.assertIsNotNone(self.server.poke())

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
            subject.phase("Freeze", 1500)
            waited = load.longest_wait(time.monotonic())
            self.assertGreater(time.monotonic() - begun, 1.2)
            self.assertLess(waited, 2)
            self.assertEqual(subject.wait(), 70)

    def test_thaw_from_any_state_any_number_of_times(self):
        subject = self.subject()
        subject.begin_backup()
        self.assertEqual(subject.call("Thaw"), {"thawed": "was_not_held"})
        subject.phase("PrepareBackup")
        self.assertEqual(subject.call("Thaw"), {"thawed": "was_not_held"})
        subject.phase("Freeze")
        self.assertEqual(self.failure(subject, "Freeze", set=SET, budget_ms=5000).name, "Rejected")
        self.assertIsNotNone(self.server.poke())
        subject.call("Abort")
        subject.call("Abort")

    def test_a_hold_that_was_lost_is_told(self):
        subject = self.prepared()
        subject.phase("Freeze", 20_000)
        # As if the machine had not let the writer run for longer than a lease.
        subject.process.send_signal(signal.SIGSTOP)
        self.assertIsNotNone(self.server.poke())
        subject.process.send_signal(signal.SIGCONT)
        error = self.failure(subject, "Thaw")
        self.assertEqual(error.name, "InconsistentSnapshot")
        self.assertIn("wrote while it was held", error.why)

    def test_a_server_that_was_started_anew_is_not_the_one_that_was_prepared(self):
        subject = self.prepared()
        self.server.stop()
        self.server.restart()
        self.assertIn(self.failure(subject, "Freeze", set=SET, budget_ms=5000).name, ["Busy", "NotResponding"])

    def test_a_replica_is_refused(self):
        self.connect().call("REPLICAOF", "127.0.0.1", "1")
        subject = self.subject()
        subject.begin_backup()
        error = self.failure(subject, "PrepareBackup", set=SET, budget_ms=5000)
        self.assertEqual(error.name, "Rejected")
        self.assertIn("back up the master", error.why)


@needs_redis
class AppendOnly(Holding, Case):
    def test_a_rewrite_under_the_hold_is_told(self):
        subject = self.prepared()
        subject.phase("Freeze", 20_000)
        self.connect().call("BGREWRITEAOF")
        error = self.failure(subject, "Thaw")
        self.assertEqual(error.name, "InconsistentSnapshot")
        self.assertIn("aof_rewrite", error.why)
        self.assertIsNotNone(self.server.poke())

    def test_a_shadow_copy_of_another_moment_is_told(self):
        self.declared = self.metadata()
        early = self.copy(f"{self.folder}/early")
        self.server.poke()
        subject = self.prepared()
        subject.phase("Freeze")
        subject.call("Thaw")
        self.assertEqual(
            self.failure(subject, "PostSnapshot", set=SET, roots=self.roots(early)).name, "InconsistentSnapshot"
        )

    def test_a_damaged_copy_is_refused(self):
        self.server.poke()
        self.declared = self.metadata()
        root = self.copy(f"{self.folder}/copy")
        for file in Path(root).rglob("*.incr.aof"):
            file.write_bytes(file.read_bytes()[:-3])
        subject = self.subject()
        subject.begin_restore(self.declared)
        error = self.failure(subject, "Check", roots=self.roots(root))
        self.assertEqual(error.name, "RecoveryFailed")
        self.assertIn("redis-check-aof", error.why)

    def test_a_configuration_that_would_start_empty_is_told(self):
        self.declared = self.metadata()
        root = self.copy(f"{self.folder}/copy")
        self.server.config.write_text(self.server.config.read_text().replace("appendonly yes", "appendonly no"))
        subject = self.subject()
        subject.begin_restore(self.declared)
        findings = subject.call("Verify", roots=[[f"{self.server.data}", root + str(self.server.data)]])["findings"]
        self.assertTrue(findings[-1]["warning"])
        self.assertIn("would start without these data", findings[-1]["result"])

    def test_metadata_are_what_the_server_says(self):
        metadata = self.metadata(**{"busy-timeout": "5s", "freeze-level": "front-end", "service": "redis.service"})
        data, config = metadata["components"]
        self.assertEqual((data["name"], data["held"]), ("aof", True))
        self.assertEqual(data["files"][0]["path"], f"{self.server.data}/appendonlydir")
        self.assertEqual(config["files"][0]["pattern"], "redis.conf")
        self.assertFalse(config["held"])
        self.assertEqual((metadata["busy_timeout_ms"], metadata["freeze_level"]), (5000, "front_end"))
        self.assertEqual(
            metadata, self.metadata(**{"busy-timeout": "5s", "freeze-level": "front-end", "service": "redis.service"})
        )

    def test_whether_it_runs_is_told_truthfully(self):
        metadata = self.metadata()
        subject = self.subject()
        subject.begin_restore(metadata)
        self.assertEqual(subject.call("OnlineState"), {"state": "ready"})
        self.server.stop()
        self.assertEqual(subject.call("OnlineState"), {"state": "down"})
        error = self.failure(self.subject(), "Identify")
        self.assertEqual((error.name, error.parameters), ("WrongState", {"is": "down", "must": "running"}))

    def test_a_password_comes_from_a_file_and_a_missing_privilege_is_named_beforehand(self):
        admin = self.connect()
        admin.call("ACL", "SETUSER", "backup", "on", ">s3cret", "+info", "+config|get", "+ping")
        admin.call("CONFIG", "SET", "requirepass", "other")
        secret = f"{self.folder}/secret"
        Path(secret).write_text("s3cret\n")
        os.chmod(secret, 0o600)
        self.assertEqual(self.failure(self.subject(), "Identify").name, "Denied")
        allowed = {"user": "backup", "password-file": secret}
        subject = self.subject(**allowed)
        subject.call("Identify")
        subject.begin_backup()
        error = self.failure(subject, "PrepareBackup", set=SET, budget_ms=5000)
        self.assertEqual(error.name, "Denied")
        self.assertIn("client|pause", error.why)
        admin.call("ACL", "SETUSER", "backup", "+client|pause", "+client|unpause")
        subject = self.prepared(**allowed)
        subject.phase("Freeze")
        self.assertEqual(subject.call("Thaw"), {"thawed": "released"})
        error = self.failure(self.subject(**{**allowed, "password-file": "/nonexistent"}), "Identify")
        self.assertEqual((error.name, error.parameters["key"]), ("InvalidSetting", "password-file"))
        self.assertNotIn("s3cret", subprocess.run(["ps", "-ef"], capture_output=True, text=True).stdout)

    def test_a_server_on_tcp(self):
        process = subprocess.Popen(
            [
                "redis-server",
                "--port",
                "0",
                "--dir",
                self.folder,
                "--appendonly",
                "yes",
                "--unixsocket",
                f"{self.folder}/tcp.sock",
            ],
            stdout=subprocess.DEVNULL,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        wait_until_up(process, f"{self.folder}/tcp.sock")
        admin = Redis(f"{self.folder}/tcp.sock", 10)
        # The server picks the port: whoever picks one beforehand may lose it again.
        port = next(port for port in range(20_000 + os.getpid() % 20_000, 65_000) if listens(admin, port))
        subject = Subject(WRITER)
        self.addCleanup(subject.__exit__)
        subject.hello("redis", {"host": "127.0.0.1", "port": port})
        metadata = subject.call("Identify")["metadata"]
        self.assertIn("configuration file", metadata["warnings"][0])
        subject.begin_backup()
        subject.phase("PrepareBackup")
        subject.phase("Freeze")
        self.assertEqual(subject.call("Thaw"), {"thawed": "released"})
        admin.close()


def listens(admin: Redis, port: int) -> bool:
    try:
        admin.call("CONFIG", "SET", "port", port)
        return True
    except Exception:
        return False


@needs_redis
class Dump(Holding, Case):
    mode = "rdb"

    def test_a_dump_that_would_take_longer_than_the_hold_is_refused_with_both_numbers(self):
        self.connect().call("BGSAVE")
        subject = self.subject(**{"longest-hold": "900ms"})
        subject.begin_backup()
        error = self.failure(subject, "PrepareBackup", set=SET, budget_ms=20_000)
        self.assertEqual(error.name, "Rejected")
        self.assertRegex(error.why, r"about \d+ ms, and writes may be held for 900 ms")
        subject = self.prepared()
        error = self.failure(subject, "Freeze", set=SET, budget_ms=700)
        self.assertRegex(error.why, r"about \d+ ms, and writes may be held for 700 ms")
        self.assertIsNotNone(self.server.poke())

    def test_a_server_that_keeps_nothing_is_refused(self):
        self.connect().call("CONFIG", "SET", "save", "")
        error = self.failure(self.subject(), "Identify")
        self.assertEqual(error.name, "Rejected")
        self.assertIn("keeps nothing on disk", error.why)

    def test_another_dump_in_the_shadow_copy_is_told(self):
        self.connect().call("SAVE")
        self.declared = self.metadata()
        early = self.copy(f"{self.folder}/early")
        self.server.poke()
        subject = self.prepared()
        subject.phase("Freeze")
        subject.call("Thaw")
        self.assertEqual(
            self.failure(subject, "PostSnapshot", set=SET, roots=self.roots(early)).name, "InconsistentSnapshot"
        )

    def test_a_damaged_dump_is_refused(self):
        self.server.poke()
        self.connect().call("SAVE")
        self.declared = self.metadata()
        root = self.copy(f"{self.folder}/copy")
        dump = next(Path(root).rglob("dump.rdb"))
        content = bytearray(dump.read_bytes())
        content[len(content) // 2] ^= 0xFF
        dump.write_bytes(content)
        subject = self.subject()
        subject.begin_restore(self.declared)
        self.assertEqual(self.failure(subject, "Check", roots=self.roots(root)).name, "RecoveryFailed")


if __name__ == "__main__":
    unittest.main()
