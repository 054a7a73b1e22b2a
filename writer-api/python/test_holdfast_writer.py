"""The promises of `holdfast_writer`, seen from the requester's side of the socket and from the application's.

The application is a file; holding it is `flock`. Run with `python3 -m unittest` in this folder.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import holdfast_writer as api
from requester import Failed, Subject, python

HERE = Path(__file__).resolve().parent
SAMPLE = str(HERE / "sample_writer.py")


class Case(unittest.TestCase):
    def setUp(self) -> None:
        file = tempfile.NamedTemporaryFile()
        self.addCleanup(file.close)
        self.file = file.name

    def subject(self, **settings: object) -> Subject:
        subject = Subject(python(SAMPLE))
        self.addCleanup(subject.__exit__)
        subject.hello("sample", {"file": self.file, **settings})
        return subject

    def backup(self, **settings: object) -> Subject:
        subject = self.subject(**settings)
        subject.begin_backup()
        return subject

    def is_free(self) -> bool:
        with open(self.file) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                return False

    def becomes_free(self, within: float) -> bool:
        until = time.monotonic() + within
        while not self.is_free():
            if time.monotonic() > until:
                return False
            time.sleep(0.002)
        return True

    def failure(self, subject: Subject, method: str, **parameters: object) -> Failed:
        with self.assertRaises(Failed) as raised:
            subject.call(method, **parameters)
        return raised.exception


class Holding(Case):
    def test_a_hold_lives_from_freeze_to_thaw_and_a_second_thaw_is_harmless(self):
        subject = self.backup()
        self.assertEqual(subject.call("Thaw"), {"thawed": "was_not_held"})
        self.assertEqual(subject.phase("Freeze")["mark"]["position"], "7")
        self.assertFalse(self.is_free())
        self.assertEqual(subject.call("Thaw"), {"thawed": "released"})
        self.assertTrue(self.is_free())
        self.assertEqual(subject.call("Thaw"), {"thawed": "was_not_held"})
        subject.socket.close()
        self.assertEqual(subject.wait(), 0)

    def test_a_closed_socket_thaws_and_ends(self):
        for fault, code in [("", 0), ("hold, then block", api.EXIT_ORPHANED), ("block in thaw", api.EXIT_ORPHANED)]:
            with self.subTest(fault):
                subject = self.backup(fault=fault)
                if fault == "hold, then block":
                    subject.send("Freeze", set="", budget_ms=60_000)
                    while self.is_free():
                        time.sleep(0.002)
                else:
                    subject.phase("Freeze", 60_000)
                subject.socket.close()
                self.assertTrue(self.becomes_free(2))
                self.assertEqual(subject.wait(), code)

    def test_the_hold_ends_at_its_deadline_whatever_the_code_does(self):
        for fault in ["", "hold, then block", "block in thaw"]:
            with self.subTest(fault):
                subject = self.backup(fault=fault)
                begun = time.monotonic()
                subject.send("Freeze", set="", budget_ms=300)
                while self.is_free() and time.monotonic() < begun + 0.25:
                    time.sleep(0.002)
                self.assertTrue(self.becomes_free(5))
                self.assertGreater(time.monotonic() - begun, 0.2)
                self.assertEqual(subject.wait(), api.EXIT_DEADLINE)

    def test_the_kernel_keeps_the_deadline_of_code_that_lets_no_thread_run(self):
        subject = self.backup(fault="hog")
        subject.send("Freeze", set="", budget_ms=300)
        self.assertEqual(subject.wait(), -signal.SIGALRM)
        self.assertTrue(self.is_free())

    def test_death_releases(self):
        subject = self.backup()
        subject.phase("Freeze", 60_000)
        subject.process.kill()
        self.assertTrue(self.becomes_free(2))

    def test_a_thaw_in_time_takes_the_deadline_away(self):
        subject = self.backup()
        subject.phase("Freeze", 300)
        subject.call("Thaw")
        with self.assertRaises(subprocess.TimeoutExpired):
            subject.process.wait(0.7)
        subject.call("Abort")

    def test_a_freeze_that_fails_leaves_nothing_held(self):
        expected = {
            "hold, then refuse": "Rejected",
            "hold, then raise": "NotResponding",
            "hold, then answer nonsense": "Rejected",
        }
        for fault, name in expected.items():
            with self.subTest(fault):
                subject = self.backup(fault=fault)
                error = self.failure(subject, "Freeze", set="", budget_ms=60_000)
                self.assertEqual(error.name, name)
                self.assertTrue(self.is_free())

    def test_abort_releases(self):
        for fault in ["", "raise in abort"]:
            with self.subTest(fault):
                subject = self.backup(fault=fault)
                subject.phase("Freeze", 60_000)
                if fault:
                    self.assertEqual(self.failure(subject, "Abort").name, "NotResponding")
                else:
                    subject.call("Abort")
                self.assertTrue(self.is_free())

    def test_a_thaw_that_fails_for_no_known_reason_may_still_hold(self):
        subject = self.backup(fault="raise in thaw")
        subject.phase("Freeze", 60_000)
        self.assertEqual(self.failure(subject, "Thaw").name, "StuckFrozen")

    def test_children_of_the_writer_do_not_keep_the_socket_open(self):
        subject = self.backup(fault="child")
        subject.phase("PrepareBackup")
        subject.process.kill()
        subject.process.wait()
        subject.socket.settimeout(5)
        self.assertEqual(subject.socket.recv(1), b"")
        subject.wait()


class Conversation(Case):
    def test_errors_travel_with_their_fields_and_causes(self):
        expected = {
            "Busy": {"cause": {"message": "outer", "source": {"message": "inner"}}},
            "TimedOut": {"action": "prepare", "budget_ms": 5},
            "WrongState": {"is": "running", "must": "down"},
            "InvalidSetting": {"key": "file", "problem": "gone"},
            "PartialFailure": {"components": {"data": {"message": "gone"}}},
            "Unsupported": {"what": "this"},
            "Denied": {"cause": {"message": "PermissionError: [Errno 13] Permission denied"}},
            "OutOfResources": {"cause": {"message": "OSError: [Errno 28] No space left on device"}},
            "NotResponding": {"cause": {"message": "KeyError: 'x'"}},
            "Skipped": {"cause": {"message": "not today"}},
        }
        subject = self.subject()
        subject.begin_backup()
        for name, parameters in expected.items():
            with self.subTest(name):
                error = self.failure(subject, "OpenStream", name=name)
                self.assertEqual((error.name, error.parameters), (name, parameters))

    def test_what_a_writer_lacks_is_unsupported_and_what_is_out_of_order_says_so(self):
        subject = self.subject()
        self.assertEqual(
            self.failure(subject, "Thaw").parameters, {"method": "io.holdfast.Writer.Thaw", "state": "writer"}
        )
        subject.begin_backup()
        self.assertEqual(self.failure(subject, "SealKeys", recipients=[]).name, "Unsupported")
        self.assertEqual(self.failure(subject, "ListLogs").name, "Unsupported")
        self.assertEqual(self.failure(subject, "Identify").parameters["state"], "backup")
        self.assertEqual(subject.phase("PrepareBackup"), {"backup_type": "full", "warnings": []})
        self.assertEqual(subject.call("PostSnapshot", set="", roots=[]), {"stamps": {}, "warnings": []})

    def test_a_restore_is_answered_sensibly_by_a_writer_that_knows_nothing_of_it(self):
        subject = self.subject()
        metadata = subject.call("Identify")["metadata"]
        subject.begin_restore(metadata)
        self.assertEqual(subject.call("OnlineState"), {"state": "unknown"})
        for method in ["Check", "Verify"]:
            self.assertEqual(subject.call(method, roots=[["/a", "/b"]]), {"findings": []})
        subject.call("Register", map=[], marker="/m")
        subject.call("RegisterComplete")
        self.assertEqual(self.failure(subject, "Recover", staged={"roots": []}, context={}).name, "Unsupported")
        self.assertEqual(subject.call("PostRestoreSteps"), {"steps": []})
        subject.call("Unregister")

    def test_capabilities_are_those_whose_methods_the_class_has(self):
        metadata = self.subject().call("Identify")["metadata"]
        self.assertEqual(metadata["capabilities"], {"freeze": True, "stream": True})
        self.assertEqual(api.WRITER.problem(metadata, "WriterMetadata", "metadata"), None)

    def test_parameters_are_checked_against_the_interface(self):
        subject = self.subject()
        wrong = {
            "set": {"backup_type": "full", "components": []},
            "backup_type": {"set": "", "backup_type": "half", "components": []},
            "components[0].name": {"set": "", "backup_type": "full", "components": [{"path": "x"}]},
            "previous_stamps[a]": {"set": "", "backup_type": "full", "components": [], "previous_stamps": {"a": 1}},
        }
        for parameter, parameters in wrong.items():
            error = self.failure(subject, "BeginBackup", **parameters)
            self.assertEqual((error.name, error.parameters), ("InvalidParameter", {"parameter": parameter}))
        subject.begin_backup()
        for budget in (-1, 1.5, True, "1", None):
            error = self.failure(subject, "Freeze", set="", budget_ms=budget)
            self.assertEqual(error.parameters, {"parameter": "budget_ms"})

    def test_nulls_and_unknown_fields_are_as_if_they_were_not_there(self):
        subject = self.subject()
        subject.call(
            "BeginBackup",
            set="",
            backup_type="full",
            components=[{"name": "data", "path": None}],
            previous_stamps=None,
            from_a_later_minor={"x": 1},
        )

    def test_an_answer_that_is_not_as_the_interface_has_it_names_the_place(self):
        error = self.failure(self.subject(fault="bad metadata"), "Identify")
        self.assertEqual(error.name, "Rejected")
        self.assertIn("metadata.components[0].kind", error.why)

    def test_the_version_is_negotiated(self):
        settings = {"file": self.file}
        for protocol, name in [("2.0", "VersionMismatch"), ("1", "InvalidParameter"), ("1.x", "InvalidParameter")]:
            with Subject(python(SAMPLE)) as subject, self.assertRaises(Failed) as raised:
                subject.hello("sample", settings, protocol=protocol)
            self.assertEqual(raised.exception.name, name)
        with Subject(python(SAMPLE)) as subject:
            reply = subject.hello("sample", settings, protocol="1.9", from_a_later_minor=1)
            self.assertEqual(
                reply, {"protocol": "1.0", "program": "sample_writer.py", "version": "1", "features": ["descriptors"]}
            )

    def test_a_wrong_type_and_wrong_settings_are_refused_by_name(self):
        with Subject(python(SAMPLE)) as subject:
            with self.assertRaises(Failed) as raised:
                subject.hello("other", {})
            self.assertIn("serves `sample`, not `other`", raised.exception.why)
            for settings, key in [
                ({}, "file"),
                ({"file": 5}, "file"),
                ({"file": "x"}, "file"),
                ({"file": "/x", "fiel": 1}, "fiel"),
            ]:
                with self.assertRaises(Failed) as raised:
                    subject.hello("sample", settings)
                self.assertEqual((raised.exception.name, raised.exception.parameters["key"]), ("InvalidSetting", key))
            subject.hello("sample", {"file": self.file})

    def test_it_describes_itself_at_any_time(self):
        with Subject(python(SAMPLE)) as subject:
            about = subject.call("org.varlink.service.GetInfo")
            self.assertEqual(about["interfaces"], ["org.varlink.service", "io.holdfast.Writer"])
            for interface in about["interfaces"]:
                text = subject.call("org.varlink.service.GetInterfaceDescription", interface=interface)["description"]
                self.assertTrue(text.startswith(f"interface {interface}\n"))
            for method, name in [
                ("org.varlink.service.GetInterfaceDescription", "InvalidParameter"),
                ("org.varlink.service.Other", "MethodNotFound"),
                ("Other", "MethodNotFound"),
                ("org.example.Other.Thaw", "InterfaceNotFound"),
            ]:
                self.assertEqual(self.failure(subject, method).name, name)

    def test_nothing_is_printed_on_standard_output(self):
        subject = self.backup(fault="print")
        subject.phase("PrepareBackup")
        subject.socket.close()
        subject.wait()
        self.assertEqual(subject.process.stdout.read(), b"")
        self.assertIn("said by the writer", subject.said())
        self.assertIn("said by its child", subject.said() or "said by its child")


class Streams(Case):
    def test_a_descriptor_is_passed_beside_the_answer_and_nowhere_else(self):
        subject = self.backup()
        for name in ["pipe", "file"]:
            self.assertEqual(subject.call("OpenStream", name=name), {"descriptor": 0})
            self.assertEqual(len(subject.descriptors), 1)
            with os.fdopen(subject.descriptors.pop(), "rb") as stream:
                content = stream.read()
            self.assertEqual(content, b"x" * 1_000_000 if name == "pipe" else b"")
            subject.call("CloseStream", name=name, bytes=len(content))
        self.assertEqual(self.failure(subject, "CloseStream", name="pipe", bytes=7).name, "InconsistentSnapshot")
        # What was passed is not kept open.
        self.assertEqual(subject.call("ListStreams")["streams"][0]["size_hint"], 0)

    def test_a_requester_that_takes_no_descriptors_gets_none(self):
        with Subject(python(SAMPLE)) as subject:
            subject.hello("sample", {"file": self.file}, features=[])
            subject.begin_backup()
            self.assertEqual(self.failure(subject, "OpenStream", name="pipe").name, "Unsupported")


class BadInput(Case):
    def ends(self, message: bytes, code: int = 1) -> str:
        subject = self.backup()
        subject.phase("Freeze", 60_000)
        try:
            subject.socket.sendall(message)
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.assertTrue(self.becomes_free(5))
        self.assertEqual(subject.wait(), code)
        return subject.said()

    def test_nonsense_releases_and_ends(self):
        for message in [
            b"\0",
            b"\xff\xfe\0",
            b"[]\0",
            b"{}\0",
            b'{"method": 5}\0',
            b'{"method": NaN}\0',
            b"[" * 100_000 + b"\0",
            '{"method": "x"}'.encode("utf-16") + b"\0",
            b'{"method":"io.holdfast.Writer.Thaw","oneway":true}\0',
            b'{"method":"io.holdfast.Writer.Thaw","upgrade":true}\0',
        ]:
            with self.subTest(message[:60]):
                self.assertIn("the conversation broke off", self.ends(message))

    def test_half_a_message_is_not_an_ordinary_end(self):
        subject = self.backup()
        subject.phase("Freeze", 60_000)
        subject.socket.sendall(b'{"method"')
        subject.socket.shutdown(socket.SHUT_WR)
        self.assertTrue(self.becomes_free(5))
        self.assertEqual(subject.wait(), 1)

    def test_a_message_without_end_is_refused_before_it_fills_the_memory(self):
        self.assertIn("more than 16777216 bytes", self.ends(b"x" * (api.MAX_MESSAGE_BYTES + 200_000)))

    def test_a_call_before_the_answer_to_the_last_one_ends_the_conversation(self):
        subject = self.backup(fault="hold, then block")
        subject.send("Freeze", set="", budget_ms=60_000)
        while self.is_free():
            time.sleep(0.002)
        subject.send("Thaw")
        self.assertTrue(self.becomes_free(5))
        self.assertEqual(subject.wait(), 1)

    def test_an_answer_that_is_too_long_or_no_text_is_an_error(self):
        for fault in ["endless mark", "mark that is no text"]:
            error = self.failure(self.backup(fault=fault), "Freeze", set="", budget_ms=60_000)
            self.assertEqual(error.name, "Rejected")

    def test_without_a_socket_it_says_who_starts_it(self):
        done = subprocess.run(python(SAMPLE), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("started by holdfast", done.stderr)


class Helpers(unittest.TestCase):
    def test_the_longest_root_locates_a_file_and_a_file_root_stays_a_file(self):
        staged = api.Places([("/srv", "/s/1"), ("/srv/ca", "/s/2"), ("/srv/ca/ca.db", "/s/3/ca.db")])
        self.assertEqual(staged.locate("/srv/ca/x"), "/s/2/x")
        self.assertEqual(staged.locate("/srv/ca/ca.db"), "/s/3/ca.db")
        self.assertEqual(staged.locate("/srv"), "/s/1")
        self.assertIsNone(staged.locate("/srvx"))
        self.assertEqual(api.Places([("/", "/s")]).locate("/a/b"), "/s/a/b")

    def test_settings_complain_by_key(self):
        settings = api.Settings({"t": "5 s", "n": 3, "b": True, "l": ["/a", "/b"], "p": "/a/../b", "bad": "5"})
        self.assertEqual((settings.duration_ms("t"), settings.number("n"), settings.flag("b")), (5000, 3, True))
        self.assertEqual(settings.paths("l"), ["/a", "/b"])
        self.assertEqual(settings.text("absent", None), None)
        for read, key in [
            (settings.path, "p"),
            (settings.duration_ms, "bad"),
            (settings.number, "b"),
            (settings.text, "gone"),
            (settings.texts, "t"),
        ]:
            with self.assertRaises(api.InvalidSetting) as raised:
                read(key)
            self.assertEqual(raised.exception.key, key)

    def test_a_secret_that_others_could_read_or_write_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "secret")
            Path(path).write_text("s3cret\nmore\n")
            os.chmod(path, 0o600)
            self.assertEqual(api.read_secret(path), "s3cret")
            for mode in (0o620, 0o604, 0o602):
                os.chmod(path, mode)
                with self.assertRaises(api.Denied):
                    api.read_secret(path)
            os.chmod(path, 0o600)
            os.chmod(folder, 0o777)
            with self.assertRaises(api.Denied):
                api.read_secret(path)


class TheInterface(unittest.TestCase):
    """The embedded text is that of the repository, less comments and line breaks."""

    def files(self):
        for interface in (api.SERVICE, api.WRITER):
            file = HERE.parent / f"{interface.name}.varlink"
            if not file.exists():
                self.skipTest("outside the repository there is nothing to compare with")
            yield interface, api.Interface(re.sub(r"(?m)^#.*\n", "", file.read_text()).strip())

    def test_it_is_the_repositorys(self):
        for here, there in self.files():
            self.assertEqual(here.methods, there.methods)
            self.assertEqual(here.types, there.types)
            self.assertEqual(here.errors, there.errors)

    def test_every_error_has_a_class_and_every_class_is_an_error(self):
        conversation = {"VersionMismatch", "OutOfOrder"}
        classes = {kind.__name__ for kind in api.WriterError.__subclasses__()}
        self.assertEqual(classes, set(api.WRITER.errors) - conversation)

    def test_every_method_can_be_called_in_some_state(self):
        possible = set().union(*api._CALLS.values())
        self.assertEqual(possible, set(api.WRITER.methods))

    def test_it_is_a_single_file_without_dependencies(self):
        for version in [sys.executable, "/usr/bin/python3"]:
            if os.path.exists(version):
                done = subprocess.run(
                    [
                        version,
                        "-I",
                        "-S",
                        "-c",
                        "import runpy, sys; runpy.run_path(sys.argv[1])",
                        str(HERE / "holdfast_writer.py"),
                    ],
                    capture_output=True,
                    text=True,
                )
                self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
