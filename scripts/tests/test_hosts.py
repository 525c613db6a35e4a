# SPDX-License-Identifier: GPL-2.0

"""What the runner must get right about the two emulated hosts."""

import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import bochs_host
import emulated_host
import ktap
import run_tests


class CommandLine(unittest.TestCase):
    def test_mitigations_take_the_place_of_what_there_is(self):
        line = "quiet mitigations=off nokaslr "
        self.assertEqual(emulated_host.with_options(line, ""), "quiet mitigations=off nokaslr")
        self.assertEqual(emulated_host.with_options(line, "a=b"), "quiet mitigations=off nokaslr a=b")
        self.assertEqual(emulated_host.with_options(line, "mitigations=auto x"), "quiet nokaslr mitigations=auto x")


class LocalApic(unittest.TestCase):
    TEXT = "dumping local APIC state for CPU 1\n\nISR\t (none)\nIRR\t {}\n\nAPR 0x00 TPR 0x00 DFR 0x0f LDR 0x04 PPR 0x{}\n"

    def test_what_waits_above_the_priority_is_held_out(self):
        for requested, priority, expected in (("(none)", "00", None), ("236", "00", 236), ("49 236", "00", 236),
                                              ("236", "e0", None), ("49(level) 50", "20", 50)):
            self.assertEqual(emulated_host.highest_held_out(self.TEXT.format(requested, priority)), expected)
        self.assertIsNone(emulated_host.highest_held_out("local APIC unavailable\n"))


class Heads(unittest.TestCase):
    def head(self, text, host):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "t.sh"), "w") as f:
                f.write(text)
            before, run_tests.SYSTEM = run_tests.SYSTEM, folder
            try:
                return run_tests.SystemTest("t", host)
            finally:
                run_tests.SYSTEM = before

    def test_a_qemu_cpu_is_not_asked_of_bochs(self):
        text = "# cpu: max,la57=off\n# memory: 4G\n# smp: 2\n"
        self.assertEqual(self.head(text, "amd").shape_keys(), {"cpu": "max,la57=off", "memory": "4G", "smp": 2})
        ivy_bridge = "corei7_ivy_bridge_3770k"
        self.assertEqual(self.head(text, "intel").shape_keys(), {"cpu": ivy_bridge, "smp": 2})

    def test_a_key_of_one_host_goes_before_the_common_one(self):
        text = "# smp: 2\n# smp@intel: 1\n# cpu@intel: corei5_lynnfield_750\n"
        self.assertEqual(self.head(text, "intel").shape_keys(), {"cpu": "corei5_lynnfield_750", "smp": 1})
        self.assertEqual(self.head(text, "amd").shape_keys(), {"cpu": "max", "smp": 2})

    def test_a_key_of_a_vendor_holds_for_all_its_hosts_but_where_one_has_its_own(self):
        text = "# ring: guest\n# ring@intel: full\n# ring@intel-new: system\n"
        rings = {host: self.head(text, host).ring() for host in ("amd", "amd-4level", "intel", "intel-new", "intel-old")}
        self.assertEqual(rings, {"amd": "guest", "amd-4level": "guest", "intel": "full", "intel-new": "system",
                                 "intel-old": "full"})

    def test_each_host_has_its_own_processor(self):
        self.assertEqual(self.head("", "amd-4level").shape_keys(), {"cpu": "max,la57=off"})
        self.assertEqual(self.head("", "intel-old").shape_keys(), {"cpu": "corei5_lynnfield_750"})

    def test_a_host_may_give_the_module_parameters(self):
        test = self.head("# hosts: intel, intel-shadow\n", "intel-shadow")
        self.assertEqual(test.shape_keys(), self.head("", "intel").shape_keys())
        self.assertEqual(test.command(None)[0][-1], "MODULE_PARAMETERS='ept=0' sh tests/system/t.sh")
        self.assertEqual(self.head("", "intel").command(None)[0][-1], "sh tests/system/t.sh")

    def test_time_limits_are_longer_on_intel_unless_given_for_it(self):
        self.assertEqual(self.head("# timeout: 100\n", "amd").timeout(), 100)
        self.assertEqual(self.head("# timeout: 100\n", "intel").timeout(), 300)
        self.assertEqual(self.head("# timeout: 100\n# timeout@intel: 150\n", "intel").timeout(), 150)

    def test_a_test_may_be_for_one_host(self):
        self.assertTrue(self.head("# hosts: amd\n", "amd").fits())
        self.assertFalse(self.head("# hosts: amd\n", "intel").fits())
        self.assertTrue(self.head("# ring: guest\n", "intel").fits())
        self.assertFalse(self.head("# ring: guest\n", "intel-old").fits())
        self.assertTrue(self.head("# hosts: amd, intel-old\n", "intel-old").fits())


    def test_the_debug_kernel_runs_what_is_for_amd_and_takes_its_time(self):
        test = self.head("# timeout: 100\n", "amd-debug")
        self.assertTrue(test.fits())
        self.assertEqual(test.shape_keys(), {"cpu": "max", "kernel": "debug"})
        self.assertEqual(test.timeout(), 400)
        self.assertEqual(self.head("# timeout: 100\n# timeout@amd-debug: 150\n", "amd-debug").timeout(), 150)
        self.assertFalse(self.head("# hosts: intel\n", "amd-debug").fits())
        self.assertFalse(self.head("# hosts: amd-debug\n", "amd").fits())
        self.assertNotIn("amd-debug", run_tests.DEFAULT_HOSTS)

    def test_a_loop_is_told_its_time_and_gets_as_much_more(self):
        test = self.head("# loops: 2\n# timeout: 100\n", "amd-debug")
        test.seconds = 1000
        command, limit = test.command(None)
        self.assertEqual(command[-1], "SOAK_SECONDS=1000 sh tests/system/t.sh")
        self.assertEqual((test.timeout(), limit), (1400, 1700))


class Tables(unittest.TestCase):
    def test_a_table_has_a_row_for_each_case_and_a_column_for_each_host(self):
        good, bad = ktap.Results(), ktap.Results()
        good.passed += ["a", "b"]
        bad.failed += ["a"]
        table = run_tests.Table()
        table.add("guest boot", "amd", good)
        table.add("guest boot", "intel", bad)
        table.add("guest more", "amd", good)
        rows = [line.split() for line in table.lines(["amd", "intel"])]
        self.assertEqual(rows[0], ["#", "case", "amd", "intel"])
        self.assertEqual(rows[1], ["#", "guest", "boot", "2", "ok", "1", "failed"])
        self.assertEqual(rows[2], ["#", "guest", "more", "2", "ok", "-"])


class SavedStates(unittest.TestCase):
    def test_a_private_state_has_this_runs_channels_and_no_disks(self):
        with tempfile.TemporaryDirectory() as state, tempfile.TemporaryDirectory() as folder:
            files = {
                "config": "plugin_ctrl: biosdev=true, usb_uhci=true, serial=true\ncom1: old\nata0-master: old\n"
                          "usb_uhci: enabled=1\nboot: cdrom\n",
                "hard_drive": "drive0 = {\n  image = true\n}\n",
                "cpu0": "registers\n",
            }
            for name, text in files.items():
                with open(os.path.join(state, name), "w") as f:
                    f.write(text)
            view = bochs_host.private_state(state, folder, ["com1: new", "ata0-master: new"])

            def read(name):
                with open(os.path.join(view, name)) as f:
                    return f.read()

            self.assertEqual(read("config"), "plugin_ctrl: biosdev=true, serial=true\nboot: cdrom\n"
                                             "com1: new\nata0-master: new\n")
            self.assertIn("image = false", read("hard_drive"))
            self.assertEqual(read("cpu0"), "registers\n")
            with open(os.path.join(state, "hard_drive")) as f:
                self.assertIn("image = true", f.read())

    def test_memory_is_given_in_mebibytes_or_gibibytes(self):
        self.assertEqual(bochs_host.Shape(memory="2G").mebibytes, 2048)
        self.assertEqual(bochs_host.Shape(memory="768M").mebibytes, 768)
        with self.assertRaises(bochs_host.HostError):
            bochs_host.Shape(memory="much")


if __name__ == "__main__":
    unittest.main()
