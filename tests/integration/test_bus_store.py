# SPDX-License-Identifier: Apache-2.0
"""The model store on the bus: ImportModel, RemoveModel, ListStored. CPU backend."""

import hashlib
import os
import unittest

from bus_harness import *
from harness import *
from harness import pb

TINY = ROOT / "share/models/spark-tiny.gguf"
DIGEST = hashlib.sha256(TINY.read_bytes()).hexdigest()


class BusStore(BusTestCase):
    def setUp(self):
        super().setUp()
        self.daemon_ = self.serve(backend="cpu", threads=1, models=[])
        self.caller = self.connect()

    def take(self, name, path=TINY, mode=os.O_RDONLY, **options):
        fd = os.open(path, mode)
        try:
            return self.call(self.caller, "ImportModel", "hsa{sv}",
                             (dbus.types.UnixFd(fd), name, dbus.Dictionary(options, signature="sv")))
        finally:
            os.close(fd)

    def stored(self):
        return [(str(digest), [str(n) for n in names], int(size), bool(pinned), bool(damaged))
                for digest, names, size, pinned, damaged in self.call(self.caller, "ListStored")]

    def test_life(self):
        before = self.daemon_.fd_count()
        size = TINY.stat().st_size
        self.assertEqual(self.stored(), [])
        self.assertEqual(self.take("a:1"), DIGEST)
        self.assertEqual(self.take("b", file=text("other.gguf"), pin=dbus.Boolean(True, variant_level=1)), DIGEST)
        self.assertEqual(self.stored(), [(DIGEST, ["a:1", "b"], size, True, False)])
        with self.daemon_.connect() as client:
            shown = client.ask(model_show=pb.ModelShow(model="b")).done.stored
            self.assertEqual((shown.files[0].name, shown.pinned), ("a:1", True))
            self.assertDone(client.ask(model_pin=pb.ModelPin(model="b")))
        self.assertTrue(self.complete(self.caller, model=text("b"), max_tokens=u32(4))[0])
        self.assertRefused("Busy", self.call, self.caller, "RemoveModel", "s", ("a:1",))
        self.call(self.caller, "Unload", "s", ("a:1",))
        self.assertEqual(self.call(self.caller, "RemoveModel", "s", ("a:1",)), 0)
        self.assertEqual(self.stored(), [(DIGEST, ["b"], size, False, False)])
        self.assertEqual(self.call(self.caller, "RemoveModel", "s", ("sha256:" + DIGEST[:8],)), size)
        self.assertEqual(self.stored(), [])
        self.wait_fds(self.daemon_, before)

    def test_refused(self):
        other = self.daemon_.folder / "other.gguf"
        long_model(other, 300)
        self.assertEqual(self.take("a"), DIGEST)
        self.assertRefused("InvalidArgument", self.take, "a", other)
        self.take("a", other, replace=dbus.Boolean(True, variant_level=1))
        self.assertRefused("InvalidArgument", self.take, ".a")
        self.assertRefused("InvalidArgument", self.take, "c", file=text("../c"))
        self.assertIn("foo", self.assertRefused("InvalidArgument", self.take, "c", foo=u32(1)))
        self.assertIn("'pin' must be", self.assertRefused("InvalidArgument", self.take, "c", pin=u32(1)))
        self.assertRefused("ModelInvalid", self.take, "c", ROOT / "Makefile")
        self.assertRefused("InvalidArgument", self.take, "c", "/dev/null")
        self.assertRefused("ModelNotFound", self.call, self.caller, "RemoveModel", "s", ("nobody",))
        self.assertEqual([names for _, names, *_ in self.stored()], [["a"]])

    def test_pack(self):
        self.take("a")
        def pack(name, **options):
            return self.call(self.caller, "PackModel", "ssa{sv}", ("a", name, dbus.Dictionary(options, signature="sv")))
        yes = dbus.Boolean(True, variant_level=1)
        digest = pack("p", lossless=yes, pin=yes)
        self.assertEqual([(names, bool(pinned)) for d, names, _, pinned, _ in self.stored() if d == digest], [(["p"], True)])
        self.assertIn("file", self.assertRefused("InvalidArgument", pack, "q", file=text("x")))
        self.assertRefused("InvalidArgument", pack, ".q")
        load = lambda name, **options: self.call(self.caller, "Load", "sa{sv}", (name, dbus.Dictionary(options, signature="sv")))
        self.assertTrue(load("p", lossless=yes))
        self.assertIn("pin", self.assertRefused("InvalidArgument", load, "p", pin=yes))

    def test_not_ours_to_write(self):
        path = self.daemon_.folder / "w.gguf"
        path.write_bytes(TINY.read_bytes())
        self.assertRefused("InvalidArgument", self.take, "w", path, os.O_WRONLY)

    @unittest.skipIf(os.geteuid() != 0, "becomes another user, which takes root")
    def test_who_may(self):
        self.daemon_.folder.chmod(0o755)
        os.seteuid(NOBODY)
        try:
            self.caller = self.connect()
        finally:
            os.seteuid(0)
        self.assertRefused("PermissionDenied", self.take, "a")
        self.caller = self.connect()
        self.take("a")
        self.caller.close()
        os.seteuid(NOBODY)
        try:
            self.caller = self.connect()
        finally:
            os.seteuid(0)
        self.assertRefused("PermissionDenied", self.call, self.caller, "RemoveModel", "s", ("a",))

    def test_caller_leaves(self):
        """Its import goes with it."""
        big = self.daemon_.folder / "big.gguf"
        big.write_bytes(TINY.read_bytes())
        os.truncate(big, 3 << 30)
        fd = os.open(big, os.O_RDONLY)
        message = dbus.lowlevel.MethodCallMessage(NAME, PATH, MANAGER, "ImportModel")
        message.append(dbus.types.UnixFd(fd), "big", dbus.Dictionary({}, signature="sv"), signature="hsa{sv}")
        os.close(fd)
        self.caller.send_message(message)
        self.caller.flush()
        until(lambda: self.daemon_.children("spark-store"), what="an import that runs")
        self.caller.close()
        until(lambda: not self.daemon_.children("spark-store") and not os.listdir(self.daemon_.folder / "store/incoming"),
              what="its end")
        self.caller = self.connect()
        self.assertEqual(self.stored(), [])


if __name__ == "__main__":
    unittest.main()
