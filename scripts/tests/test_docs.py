# SPDX-License-Identifier: GPL-2.0

"""What the docs say of the code, held against the code: ioctls, capabilities, statistics, parameters, options, paths,
locks, and the tests that the threat model names."""

import os
import re
import sys
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "scripts"))

import rust_tree  # noqa: E402
import sources  # noqa: E402

# Names of files that are not ours: the kernel's, and those of the programs that we describe.
FOREIGN = {"linux", "asm", "cpu", "include", "trace"}
# Functions that are not ours either.
FOREIGN_FUNCTIONS = {"kthread_use_mm", "show_fdinfo", "cpu_run_trace"}
SUFFIXES = (".rs", ".S", ".c", ".h", ".sh", ".py", ".md", ".txt", ".1", ".4", ".5")


def read(*path):
    with open(os.path.join(TOP, *path), encoding="utf-8") as f:
        return f.read()


def code_below(*folder):
    """The text of all Rust files below a folder."""
    return "".join(read(at, name) for at, _, names in os.walk(os.path.join(TOP, *folder))
                   for name in names if name.endswith(".rs"))


def section(text, title):
    """What stands between a heading and the next one, of whatever level."""
    return re.split(r"^#+ ", re.split(rf"^#+ {re.escape(title)}.*$", text, maxsplit=1, flags=re.M)[1], maxsplit=1, flags=re.M)[0]


def rows(text):
    """The rows of the tables in a text, as lists of cells, without their heads."""
    found = []
    for line in text.splitlines():
        if line.startswith("|---"):
            found.pop()
        elif line.startswith("| "):
            found.append([cell.strip() for cell in line.strip("|").split(" |")])
    return found


def ticked(text):
    """What stands between backticks in a line; blocks of code are left out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S))


def ioctl_names(cell):
    """`KVM_GET/SET_REGS` is two of them."""
    for name in ticked(cell):
        both = re.fullmatch(r"(KVM_)GET/SET(_\w+)", name)
        yield from ((f"KVM_GET{both[2]}", f"KVM_SET{both[2]}") if both else (name,))


def ioctl_arms(text):
    """The names in the arms of a file's `match cmd`."""
    code = sources.TOKENS.sub(" ", text)
    arms = re.findall(r"\bnr::([A-Z]\w+)(?=[^;{}]*?=>)", code)
    return {f"KVM_{a}" for a in arms} | {f"RVMM_{a}" for a in re.findall(r"\b\w+::(DEV_RUN|GET_EXITS)(?=[^;{}]*?=>)", code)}


class Ioctls(unittest.TestCase):
    TABLES = {"The node": "kvm/sys.rs", "A VM": "kvm/vm.rs", "A vCPU": "kvm/vcpu.rs", "Devices of the machine": "kvm/device.rs"}

    def test_each_table_lists_the_ioctls_that_its_file_answers(self):
        text = read("docs", "abi.md")
        for title, path in self.TABLES.items():
            said = {n for row in rows(section(text, title)) if "type" != row[0] for n in ioctl_names(row[0])}
            self.assertEqual(said, ioctl_arms(read(path)), f"docs/abi.md, {title!r}, and {path}")

    def test_an_arm_is_seen_with_a_guard_and_with_others(self):
        self.assertEqual(ioctl_arms("match cmd { nr::AA if x(nr) => 1, nr::BB | nr::CC => { nr::DD; } abi::DEV_RUN => 2, }"),
                         {"KVM_AA", "KVM_BB", "KVM_CC", "RVMM_DEV_RUN"})


class Caps:
    """What KVM_CHECK_EXTENSION answers, read from abi/caps.rs and from the facts that kvm/ gives."""

    def __init__(self, caps, kvm):
        body = re.search(r"fn check_extension\(.*?\n}\n", kvm, re.S).group()
        given = re.search(r"\b(\w+) \{([^{}]*?)\.\.(?:\w+::)?\1::default", body).group(2)
        self.facts = {name for name, value in re.findall(r"(\w+): (.+?),\n", given) if value not in ("false", "0")}
        self.numbers = {n for names, guard, value in self.arms(caps, "answer") for n in names
                        if self.holds(guard or "true") and self.holds(value)}
        self.yes = {n for names, _, value in self.arms(caps, "is_present") for n in names if self.holds(value)}

    @staticmethod
    def arms(caps, function):
        body = re.search(rf"fn {function}\(.*?\n}}\n", caps, re.S).group()
        return [(re.findall(r"[A-Z]\w+", names), guard, value) for names, guard, value in
                re.findall(r"^ +([A-Z][A-Z0-9_| \n]+?)(?: if (.+?))? => (.+?),$", body, re.M)]

    def holds(self, text):
        used = re.findall(r"\b(?:facts|inputs)\.(\w+)", text)
        if "has_lapic" in text:
            used += ["irqchip", "split_irqchip"]
            return bool(self.facts & set(used))
        return all(u in self.facts for u in used)


class Capabilities(unittest.TestCase):
    def setUp(self):
        self.caps = Caps(read("abi", "caps.rs"), code_below("kvm"))
        table = {row[0]: set(ticked(row[1])) for row in rows(section(read("docs", "abi.md"), "Capabilities"))}
        self.numbers, self.yes = table["a number"], table["1"]

    def test_those_with_a_number(self):
        self.assertEqual(self.numbers, self.caps.numbers)

    def test_those_with_a_yes(self):
        self.assertEqual(self.yes, self.caps.yes)

    def test_a_fact_that_is_not_given_makes_no_capability(self):
        made = Caps("fn answer() {\n    NN if facts.a => number(facts.b),\n    MM => number(facts.c),\n}\n"
                    "fn is_present() {\n    YY | ZZ => facts.a,\n    WW => facts.d,\n    XX => has_lapic(facts),\n}\n",
                    "fn check_extension() {\n    caps::Facts { a: true,\n b: 3,\n c: 0,\n ..caps::Facts::default() }\n}\n")
        self.assertEqual((made.numbers, made.yes), ({"NN"}, {"YY", "ZZ"}))


class Statistics(unittest.TestCase):
    def test_the_counters_of_vms_and_vcpus(self):
        counters = re.findall(r'\(b"(\w+)", ', read("kvm", "stats.rs"))
        said = [n for row in rows(section(read("docs", "abi.md"), "Statistics")) for n in ticked(row[0])]
        self.assertEqual(said, counters)

    def test_the_disks_counters(self):
        manual = read("docs", "man", "rvmm.4").split("debugfs", 1)[0].split("/sys/kernel/debug/rvmm/disks\n", 1)[1]
        said = re.findall(r"^\.It (\w+)$", manual.split(".El", 1)[0], re.M)
        written = re.findall(r'writeln!\(f, "(\w+) \{\}"', code_below("vcpu") + code_below("machine"))
        self.assertEqual(said, written)


class ModuleParameters(unittest.TestCase):
    def test_the_manual_has_each_with_its_default(self):
        block = re.search(r"params: \{(.*?)\n    \},\n\}", read("rvmm.rs"), re.S).group(1)
        params = re.findall(r"^        (\w+): \w+ \{\s+default: (\w+),", block, re.M)
        manual = read("docs", "man", "rvmm.4").split(".Sh PARAMETERS", 1)[1].split(".Sh ", 1)[0]
        self.assertEqual(re.findall(r"^\.It Cm (\w+) Ns = Ns Ar (\w+)$", manual, re.M), params)
        self.assertGreater(len(params), 3)


class Options(unittest.TestCase):
    """The manual of rvmm-run against the fields that clap makes options of."""

    @staticmethod
    def of_source(text):
        """Maps each option that is shown to its default, or to None."""
        found = {"--help": None, "-h": None, "--version": None, "-V": None}
        for told, args, field in re.findall(r"((?:    /// [^\n]*\n)*)    #\[arg\((.*?)\)\]\n    pub (\w+):", text, re.S):
            default = re.search(r"\[default: ([^\]\s]+)\]", told)
            names = [f"--{n}" for n in re.findall(r'\blong = "([\w-]+)"', args)]
            if re.search(r"\blong\b(?! =)", args):
                names.append("--" + field.replace("_", "-"))
            if re.search(r"\bshort\b", args):
                names.append("-" + field[0])
            if "hide = true" not in args:
                found.update({n: default and default[1] for n in names})
        return found

    @staticmethod
    def of_manual(text):
        """Maps each option of the list to the text about it."""
        items = re.split(r"^\.It (?=Fl )", text.split(".Sh OPTIONS", 1)[1].split(".Sh ", 1)[0], flags=re.M)[1:]
        found = {}
        for item in items:
            head, _, body = item.partition("\n")
            for name in re.findall(r"\bFl (-?[\w-]+)", head):
                found["-" + name] = found.get("-" + name, "") + body
        return found

    def test_both_have_the_same(self):
        self.assertEqual(set(self.of_manual(read("docs", "man", "rvmm-run.1"))), set(self.of_source(self.source())))

    def test_the_manual_tells_the_defaults(self):
        manual = self.of_manual(read("docs", "man", "rvmm-run.1"))
        for name, default in self.of_source(self.source()).items():
            if default:
                self.assertRegex(manual[name], rf"default(.|\n)*{re.escape(default)}|{re.escape(default)}(.|\n)*default", name)

    @staticmethod
    def source():
        return read("userspace-tool", "rvmm-run", "src", "config", "cli.rs")

    def test_fields_become_options_as_clap_has_it(self):
        text = '    /// How many [default: 1]\n    #[arg(short, long)]\n    pub max_cpus: u32,\n    #[arg(long = "disk")]\n    pub disks: X,\n' \
               '    #[arg(long, hide = true)]\n    pub secret: X,\n    #[arg(value_name = "K")]\n    pub kernel: X,\n'
        found = self.of_source(text)
        self.assertEqual({k: v for k, v in found.items() if k.strip("-") not in ("h", "V", "help", "version")},
                         {"--max-cpus": "1", "-m": "1", "--disk": None})


class Packaging(unittest.TestCase):
    """The files for a system that the module and the tool are installed on."""

    FOLDER = ("userspace-tool", "packaging")

    def test_the_service_uses_options_that_there_are(self):
        unit = read(*self.FOLDER, "systemd", "rvmm@.service")
        started = re.search(r"^ExecStart=/usr/bin/rvmm-run (.*)$", unit, re.M)[1]
        self.assertLessEqual(set(re.findall(r"--[\w-]+", started)), set(Options.of_source(Options.source())))
        for line in ("Type=notify", "KillMode=mixed", "WantedBy=rvmm.target"):
            self.assertIn(line + "\n", unit)

    def test_modprobe_has_every_parameter_with_its_default_as_a_comment(self):
        block = re.search(r"params: \{(.*?)\n    \},\n\}", read("rvmm.rs"), re.S).group(1)
        params = re.findall(r"^        (\w+): \w+ \{\s+default: (\w+),", block, re.M)
        said = read(*self.FOLDER, "modprobe.d", "rvmm.conf")
        self.assertEqual(re.findall(r"^#options rvmm (\w+)=(\w+)$", said, re.M), params)
        self.assertEqual([line for line in said.splitlines() if line and not line.startswith("#")], [])


class Commands(unittest.TestCase):
    def test_the_manual_of_rvmmctl_has_each(self):
        source = read("userspace-tool", "rvmm-run", "src", "ctl", "cli.rs").split("pub enum Command {", 1)[1]
        manual = read("docs", "man", "rvmmctl.1").split(".Sh COMMANDS", 1)[1].split(".Sh ", 1)[0]
        source = re.sub(r"#\[command\(hide = true\)\]\s+\w+ \{", "", source)
        commands = [name.lower() for name in re.findall(r"^    ([A-Z]\w+) \{$", source, re.M)]
        self.assertEqual(re.findall(r"^\.It Cm (\w+)", manual, re.M), commands)
        self.assertGreater(len(commands), 10)


def pages():
    """Every text of the project, as paths."""
    found = ["README.md", "CONTRIBUTING.md"]
    for folder, _, names in os.walk(os.path.join(TOP, "docs")):
        found += [os.path.relpath(os.path.join(folder, n), TOP) for n in names if n.endswith(".md")]
    return sorted(found)


def tree():
    """Every file and folder of the checkout, as paths."""
    found = set()
    for folder, folders, names in os.walk(TOP):
        folders[:] = [d for d in folders if d not in sources.NOT_OURS]
        at = os.path.relpath(folder, TOP)
        found |= {os.path.normpath(os.path.join(at, n)) for n in [*names, *folders]}
    return found


def lost_paths(text, have):
    """The names of files in a text that are nowhere in the tree. Those of whole paths are checked, and of the end of one."""
    ends = {"/".join(path.split("/")[n:]) for path in have for n in range(path.count("/") + 1)}
    tops = {path.split("/")[0] for path in have}
    lost = []
    for name in ticked(text):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", name) or name.split("/")[0] in FOREIGN:
            continue
        looks = name.endswith(SUFFIXES) or "/" in name and name.split("/")[0] in tops
        if looks and name.rstrip("/") not in ends:
            lost.append(name)
    return lost


class Paths(unittest.TestCase):
    def test_every_path_in_the_docs_is_there(self):
        have = tree()
        self.assertEqual([(page, name) for page in pages() for name in lost_paths(read(page), have)], [])

    def test_a_function_is_in_the_file_that_the_docs_name(self):
        wrong = []
        for page in pages():
            for name, path in re.findall(r"`(\w+)\(\)` in\s+`([\w/.-]+\.rs)`", read(page)):
                if not re.search(rf"\bfn {name}\b", read(path)):
                    wrong.append(f"{page}: {name}() is not in {path}")
        self.assertEqual(wrong, [])

    def test_every_module_that_a_folder_tells_of_is_there_and_the_other_way_round(self):
        wrong = []
        for path in sources.files("mod.rs"):
            rows_of = re.findall(r"^//! \| (\[`.*?) \|", read(path), re.M)
            if not rows_of or path.split("/")[0] in ("tests", "userspace-tool"):
                continue
            said = {n for row in rows_of for n in re.findall(r"\[`(?:\w+::)*(\w+)`\]", row)}
            has = {shared: set(re.findall(rf"^{shared}mod (\w+);", read(path), re.M)) for shared in ("", r"pub\(crate\) ")}
            wrong += [f"{path} has no {n}" for n in sorted(said - set.union(*has.values()))]
            wrong += [f"{path} does not tell of {n}" for n in sorted(has[r"pub\(crate\) "] - said)]
        self.assertEqual(wrong, [])

    def test_a_path_that_is_not_there_is_found(self):
        have = {"vcpu", "vcpu/run.rs", "docs", "docs/man", "docs/man/rvmm.4"}
        text = "```\na block of `code\n```\n`vcpu/run.rs` `run.rs` `vcpu/` `man/rvmm.4` `vcpu/gone.rs` `gone/x.rs` `linux/kvm.h` `a/b` `docs/gone` `virtio/<device>`"
        self.assertEqual(lost_paths(text, have), ["vcpu/gone.rs", "gone/x.rs", "docs/gone"])


def code():
    """Every file with code of the checkout, as a map of its text by path."""
    return {path: read(path) for path in sources.files(".rs", ".c", ".h", ".S", ".py", ".sh")}


class Words:
    """What the code has by name: words of each file, files that mention a type, functions."""

    DEFINES = re.compile(r"\b(?:fn|def|mod|struct|enum|trait|const(?! fn)|static|type|union) (\w+)|^\w[\w *]*?\b(\w+)\(", re.M)

    def __init__(self, files):
        self.words = {path: set(re.findall(r"\w+", source)) for path, source in files.items()}
        self.defined = {path: {a or b for a, b in self.DEFINES.findall(source)} for path, source in files.items()}
        self.all_defined = set().union(*self.defined.values())

    def places(self, owner):
        """The files that have to do with a type, or that a module consists of."""
        if owner[0].isupper():
            return [p for p, words in self.words.items() if owner in words] if owner in self.all_defined else []
        return [p for p in self.words if f"/{owner}.rs" in f"/{p}" or f"/{owner}/" in f"/{p}"]


def lost_names(text, known):
    """The names of functions and of what lies in a type or module that no file has: `f()`, `Type::x`, `module::x()`."""
    lost = []
    for name in ticked(text):
        has = known.defined if name.endswith("()") else known.words
        *owners, member = name.removesuffix("()").split("::")
        if owners and re.fullmatch(r"(?:\w+::)+\w+(?:\(\))?", name):
            found = all(map(known.places, owners)) and any(member in has[p] for p in known.places(owners[-1]))
        elif re.fullmatch(r"[a-z]\w*\(\)", name):
            found = member in known.all_defined or member in FOREIGN_FUNCTIONS
        else:
            continue
        if not found:
            lost.append(name)
    return lost


class Names(unittest.TestCase):
    def test_every_function_and_every_part_of_a_type_that_the_docs_name_is_there(self):
        known = Words(code())
        self.assertEqual([(page, name) for page in pages() for name in lost_names(read(page), known)], [])

    def test_a_name_that_is_not_there_is_found(self):
        known = Words({"vcpu/run.rs": "pub(crate) struct Ram;\nfn new() {}\nfn go() {}", "host/shim.c": "int shim(void)\n{"})
        text = "`Ram::new()` `run::go()` `vcpu::run::Ram` `go()` `shim()` `Ram` `a b::c` " \
               "`Ram::old()` `Rom::new()` `run::stop()` `gone::go()` `svm::Ram::new()` `lost()`"
        self.assertEqual(lost_names(text, known),
                         ["Ram::old()", "Rom::new()", "run::stop()", "gone::go()", "svm::Ram::new()", "lost()"])


def defined(module):
    """Maps each type of the module to the text of the files that define it."""
    found = {}
    for source in module.sources.values():
        for item in source.types():
            found[item.name] = found.get(item.name, "") + source.code
    return found


class Locking(unittest.TestCase):
    MAKES = re.compile(r'\b(\w+) <- (?:kernel::)?new_(?:spinlock|mutex|killable_mutex)!'
                       r'|new_killable_mutex!\([^;]*?c"(\w+::\w+)"', re.S)
    HOLDS = re.compile(r"^\s+(?:pub(?:\(\w+\))? )?(\w+): (?:\w+<)*(?:SpinLock|Mutex|KillableMutex|SpinLockIrq)<", re.M)

    def setUp(self):
        self.text = read("docs", "locking.md")
        self.module = rust_tree.module()

    def test_every_type_and_function_that_the_page_names_is_there(self):
        types, lost = defined(self.module), []
        everything = "".join(s.code for s in self.module.sources.values())
        for name in ticked(self.text):
            owner, _, member = name.rstrip("()").partition("::")
            if re.fullmatch(r"[A-Z]\w+::\w+(\(\))?", name):
                if owner not in types or not re.search(rf"\b{member}\b", types[owner]):
                    lost.append(name)
            elif re.fullmatch(r"[a-z]\w+\(\)", name) and not re.search(rf"\bfn {owner}\b", everything):
                lost.append(name)
        self.assertEqual(lost, [])

    def test_every_lock_of_the_code_is_in_the_table(self):
        table = " ".join(row[0] for row in rows(section(self.text, "The locks")))
        missing = []
        for path, source in self.module.sources.items():
            for lock in self.HOLDS.findall(source.code):
                # What holds the lock of all locks is host/mutex.rs itself.
                if path != "host/mutex.rs" and not re.search(rf"\b{lock}\b|\b{self.guarded(source, lock)}\b", table):
                    missing.append(f"{path}: {lock}")
        self.assertEqual(missing, [])

    @staticmethod
    def guarded(source, lock):
        """The type inside a lock."""
        return re.search(rf"\b{lock}: (?:\w+<)*(?:\w*Mutex|SpinLock\w*)<([\w:]+|\(\))", source.code).group(1).replace("()", "(?!)")

    def test_each_lock_is_in_the_file_that_the_table_names(self):
        wrong = []
        for name, _, where, _ in (row for row in rows(section(self.text, "The locks")) if len(row) == 4):
            owner, _, field = ticked(name)[0].partition("::")
            for path in ticked(where):
                source = self.module.sources.get(path)
                if source is None or not re.search(rf"\b{owner}\b", source.code) or not re.search(rf"\b{field or owner}\b", source.code):
                    wrong.append(f"{ticked(name)[0]} is not in {path}")
        self.assertEqual(wrong, [])


class Glossary(unittest.TestCase):
    def test_every_type_that_it_names_is_there(self):
        said = {n for row in rows(read("docs", "glossary.md")) for n in ticked(row[-1]) if re.fullmatch(r"[A-Z]\w*[a-z]\w*", n)}
        # Some are made by macros, so what counts is that the code has the word.
        known = set(re.findall(r"\w+", "".join(s.code for s in rust_tree.module().sources.values())))
        self.assertGreater(len(said), 5)
        self.assertEqual(said - known, set())


def named():
    """The rows of the table: the class, and the tests in its last column."""
    text = read("docs", "threat-model.md").split("## The faults that KVM has had", 1)[1].split("\n## ", 1)[0]
    return {row[0]: ticked(row[-1]) for row in rows(text)}


class Soak(unittest.TestCase):
    NUMBERS = dict(zip(("two", "three", "four", "five", "six", "seven", "eight", "nine"), range(2, 10)))

    def setUp(self):
        self.text = read("docs", "soak.md")
        names = [n[:-3] for n in os.listdir(os.path.join(TOP, "tests", "system")) if n.endswith(".sh")]
        self.scripts = {n: read("tests", "system", n + ".sh") for n in names}

    def test_the_page_tells_of_every_script_and_of_no_other(self):
        said = {n for row in rows(section(self.text, "What runs")) for n in ticked(row[0]) if n.startswith("soak-")}
        self.assertEqual(said, {n for n in self.scripts if n.startswith("soak-")})

    def test_the_ring_has_these_alone(self):
        ring = {n for n, text in self.scripts.items() if re.search(r"^# ring: soak$", text, re.M)}
        self.assertEqual(ring, {n for n in self.scripts if n.startswith("soak-")})

    def test_the_loops_have_the_time_that_is_said(self):
        parts = {n: int(m.group(1)) for n, text in self.scripts.items() if (m := re.search(r"^# loops: (\d+)$", text, re.M))}
        self.assertEqual([self.NUMBERS.get(n) for n in re.findall(r"(\w+) loops together", self.text)], [len(parts)])
        said = re.search(r"default (\d+): (\d+) for soak-fuzz, (\d+) for each of (\w+)\)", read("Makefile"))
        total, fuzz, each = map(int, said.groups()[:3])
        minutes = {n: total * p // sum(parts.values()) for n, p in parts.items()}
        self.assertEqual(minutes.pop("soak-fuzz"), fuzz)
        self.assertEqual(list(minutes.values()), [each] * self.NUMBERS[said.group(4)])
        self.assertIn(f"SOAK_MINUTES={total} ", self.text)


class ThreatModel(unittest.TestCase):
    def test_every_class_has_tests(self):
        table = named()
        self.assertGreater(len(table), 15)
        self.assertEqual([c for c, tests in table.items() if not tests], [])

    def test_every_test_that_it_names_exists(self):
        known = set(re.findall(r"\bfn (\w+)", code_below("tests", "host")))
        known |= set(re.findall(r'\("([^"]+)",', code_below("tests", "abi")))
        known |= {name[:-3] for name in os.listdir(os.path.join(TOP, "tests", "system")) if name.endswith(".sh")}
        self.assertEqual([t for tests in named().values() for t in tests if t not in known], [])


if __name__ == "__main__":
    unittest.main()
