# SPDX-License-Identifier: Apache-2.0
"""What a program sees that caches: GLib's client of the object manager asks once and then believes the signals. Whatever happens, its
objects and properties must be those of the service, as far as introspection promises that changes are told."""

import os
import signal
import time
import unittest
import xml.etree.ElementTree as ElementTree

from bus_harness import *
from harness import *
from harness import pb
from power_harness import PowerTestCase

try:
    from gi.repository import Gio, GLib
except ImportError:
    Gio = None

EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"
ONE, TWO = {"name": "one", "default": True}, {"name": "two"}


@unittest.skipUnless(Gio, "python3-gi is not installed")
class Cache(PowerTestCase):
    def setUp(self):
        super().setUp()
        self.told = described(ElementTree.parse(ROOT / "systemd/org.sparkd.Spark1.xml").getroot())

    def begin(self, **settings):
        self.daemon_ = self.serve(**settings)
        self.bus_ = self.connect()
        connection = Gio.DBusConnection.new_for_address_sync(
            self.bus.address, Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION, None, None)
        self.addCleanup(connection.close_sync, None)
        self.client = Gio.DBusObjectManagerClient.new_sync(connection, Gio.DBusObjectManagerClientFlags.NONE, NAME, PATH, None, None,
                                                           None)
        # the manager is at the root of the objects, and none of them
        self.manager = Gio.DBusProxy.new_sync(connection, Gio.DBusProxyFlags.NONE, None, NAME, PATH, MANAGER, None)

    def reload(self, **settings):
        self.daemon_.configure(bus="session", **settings)
        self.call(self.bus_, "Reload")

    def cached(self):
        """{(path, interface): {property: value}} as the client has it, of what is told."""
        while GLib.MainContext.default().iteration(False):
            pass
        found = {(PATH, MANAGER): self.values(self.manager)}
        for thing in self.client.get_objects():
            proxies = thing.get_interfaces()
            found |= {(thing.get_object_path(), proxy.get_interface_name()): self.values(proxy) for proxy in proxies}
            if not proxies:
                found[thing.get_object_path(), None] = {}
        return found

    def values(self, proxy):
        values = {name: proxy.get_cached_property(name) for name in self.promised(proxy.get_interface_name())}
        return {name: None if value is None else value.unpack() for name, value in values.items()}

    def promised(self, interface):
        """Of what is its user's nothing is promised but that it is there."""
        _, _, properties = self.told[interface]
        return [name for name, (_, _, emits) in properties.items() if emits in ("true", "const") and interface not in (SESSION, JOB)]

    def real(self):
        objects = self.call(self.bus_, "GetManagedObjects", interface="org.freedesktop.DBus.ObjectManager")
        objects[PATH] = {MANAGER: self.call(self.bus_, "GetAll", "s", (MANAGER,), PATH, "org.freedesktop.DBus.Properties")}
        return {(str(path), str(interface)): {name: values[name] for name in self.promised(interface)}
                for path, interfaces in objects.items() for interface, values in interfaces.items()}

    def assertTold(self, what):
        """Soon: changes of memory are looked for once a second at most."""
        end = time.monotonic() + 10 * SLOW
        while (cached := self.cached()) != (real := self.real()) and time.monotonic() < end:
            time.sleep(0.05)
        self.assertEqual(set(cached), set(real), what)
        self.assertEqual([(*key, name, value, real[key][name]) for key, values in cached.items() for name, value in values.items()
                          if value != real[key][name]], [], what)

    def test_models_come_and_go(self):
        self.begin(models=[ONE])
        self.assertTold("at the beginning")
        self.reload(models=[ONE, TWO])
        # who waited for the answer finds it
        self.assertEqual({str(name) for name, _ in self.call(self.bus_, "ListModels")}, {"one", "two"})
        self.assertTold("a model that came")
        self.reload(models=[ONE])
        self.assertEqual({str(name) for name, _ in self.call(self.bus_, "ListModels")}, {"one"})
        self.assertTold("a model that went")
        self.reload(models=[ONE, TWO])
        self.assertTold("and came again")
        self.reload(models=[{"name": "one"}, {"name": "two", "default": True}])
        self.assertTold("another default model")

    def test_what_happens_to_a_model(self):
        self.begin(models=[ONE])
        path = PATH + "/model/one"
        self.call(self.bus_, "Unload", "s", ("one",))
        self.assertTold("an unload")
        self.call(self.bus_, "Load", path=path, interface=MODEL)
        self.assertTold("a load")
        os.kill(self.daemon_.children()[0], signal.SIGKILL)
        until(lambda: self.get(self.bus_, "EngineRestarts", path, MODEL) == 1, 10, "the engine's loss")
        self.assertTold("an engine that was lost")
        self.reload(models=[ONE], memory={"floor": "65M"})
        self.assertTold("another floor")
        fd = self.call(self.bus_, "ReserveMemory", "tssa{sv}", (64 << 20, "x", "y", dbus.Dictionary({}, signature="sv"))).take()
        self.assertTold("a lease")
        os.close(fd)
        self.assertTold("its end")

    def test_sessions_and_jobs(self):
        self.begin(models=[ONE])
        with self.daemon_.connect() as client:
            made = client.ask(session_create=pb.SessionCreate(persistent=True)).done.session
            self.assertTold("a session")
            self.assertIn((f"{PATH}/session/{made.id}", SESSION), self.cached())
            self.assertDone(client.ask(session_close=pb.SessionClose(session=made.id)))
        session, fd = self.call(self.bus_, "OpenSession", "a{sv}", (dbus.Dictionary(signature="sv"),))
        self.assertTold("a connection")
        self.assertIn((session, SESSION), self.cached())
        job, _ = self.begin_import(self.daemon_, self.connect())
        self.assertTold("a job")
        self.assertIn((job, JOB), self.cached())
        self.call(self.bus_, "Cancel", path=job, interface=JOB)
        os.close(fd.take())
        self.assertTold("what has ended")
        self.assertFalse({SESSION, JOB} & {interface for _, interface in self.cached()})

    def test_power(self):
        folder = self.sys()
        upower = self.upower(OnBattery=False)
        self.begin(models=[ONE], power={"sysfs": folder.path, "battery_batch": 7, "battery_clocks": 50})
        until(lambda: self.get(self.bus_, "Source", FIXED[1], POWER) == "upower", 10, "UPower")
        self.assertTold("UPower")
        upower.supply(False, 80)
        until(lambda: self.get(self.bus_, "HasBattery", FIXED[1], POWER), 10, "a battery")
        self.assertTold("a battery beside mains")
        upower.supply(True, 40)
        until(lambda: self.get(self.bus_, "InForce", FIXED[1], POWER), 10, "the caps")
        self.assertTold("on battery")
        upower.supply(True, 3)
        self.assertTold("an empty battery")
        self.reload(models=[ONE], power={"sysfs": folder.path, "on_battery": "background", "low_batch": 3})
        self.assertTold("another configuration")
        upower.end()
        until(lambda: self.get(self.bus_, "Source", FIXED[1], POWER) != "upower", 10, "UPower's end")
        self.assertTold("without UPower")


if __name__ == "__main__":
    unittest.main()
