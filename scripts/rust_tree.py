# SPDX-License-Identifier: GPL-2.0

"""Reads a crate's Rust files: what each imports, its functions, its types and its items.

No compiler: the text of the files without comments and literals, as rustfmt leaves it. That sees
every path that begins with `crate`, `super`, `self`, a child module or an imported module; it sees
no method that is called on a value, so an import is what names a file. A `pub use` that the file
itself does not use only shows its names to others, so whoever takes one of them imports the file that
has it. What macros write is not seen.
"""

import os
import re
from typing import NamedTuple

import sources

WORD = re.compile(r"\w+")
HUMP = re.compile(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*|[0-9]+")
MODULE = re.compile(r"^[ ]*(?:pub(?:\([^)]*\))? )?mod (?P<name>\w+)\s*(?P<end>[;{])", re.M)
USE = re.compile(r"^[ ]*(?P<pub>pub(?:\([^)]*\))? )?use (?P<tree>[^;]+);", re.M)
PATH = re.compile(r"(?<![\w:$])\$?((?:\w+::)+\w+)")
FUNCTION = re.compile(r"\bfn\s+(?P<name>\w+)")
TYPE = re.compile(r"^(?P<indent>[ ]*)(?:pub(?:\([^)]*\))? )?(?:unsafe )?(?P<kind>struct|enum|union|trait|type) (?P<name>\w+)",
                  re.M)
STATIC = re.compile(r"^[ ]*(?:pub(?:\([^)]*\))? )?static (?:mut )?(?P<name>\w+):", re.M)
ITEM = re.compile(r"^[ ]*pub\(crate\) (?:unsafe |const )*(?:fn|struct|enum|union|trait|type|const|static) (?:mut )?(\w+)", re.M)


def blank(text):
    """A text without comments and literals, every other character in its place."""
    return sources.TOKENS.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def humps(name):
    """The words that a type's name is made of."""
    return HUMP.findall(name)


class Use(NamedTuple):
    """One name that a `use` brings in."""

    path: tuple
    alias: str
    is_public: bool
    scope: tuple


class Function(NamedTuple):
    """A function with a body; lines count from 1, both inclusive."""

    name: str
    first: int
    last: int
    body: int

    def lines(self):
        return self.last - self.first + 1


class Type(NamedTuple):
    """A type that a file defines."""

    name: str
    path: str
    line: int


def closing(code, at):
    """The place of the bracket that closes the one at a place."""
    depth = 0
    for match in re.compile(r"[{}]").finditer(code, at):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return match.start()
    return len(code) - 1


def spread(tree, before=()):
    """Yields (path, alias) of a use tree: `a::{b, c as d}` gives ((a, b), b) and ((a, c), d)."""
    tree = tree.strip()
    head, brace, rest = tree.partition("{")
    if not brace:
        path, _, alias = tree.partition(" as ")
        whole = before + tuple(WORD.findall(path)) + (("*",) if path.rstrip().endswith("*") else ())
        if whole and whole[-1] == "self":
            whole = whole[:-1]
        if whole:
            yield whole, (alias.strip() or whole[-1])
        return
    inner, depth, start = rest[:rest.rindex("}")], 0, 0
    before += tuple(WORD.findall(head))
    for at, letter in enumerate(inner + ","):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            yield from spread(inner[start:at], before)
            start = at + 1


class Source:
    """One Rust file."""

    def __init__(self, path, text):
        self.path, self.text, self.code = path, text, blank(text)
        self.lines = text.split("\n")
        self.code_lines = self.code.split("\n")
        self.inline = []  # (start, end, name) of modules in the file

    @classmethod
    def on_disk(cls, path):
        with open(os.path.join(sources.TOP, path), encoding="utf-8") as f:
            return cls(path, f.read())

    def length(self):
        """How many lines the file has."""
        return self.text.count("\n")

    def line_of(self, at):
        return self.code.count("\n", 0, at) + 1

    def functions(self):
        """All functions with a body, nested ones too."""
        for match in FUNCTION.finditer(self.code):
            depth = 0
            for at in range(match.end(), len(self.code)):
                letter = self.code[at]
                depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(letter, 0)
                if depth == 0 and letter == ";":
                    break
                if depth == 0 and letter == "{":
                    end = closing(self.code, at)
                    yield Function(match.group("name"), self.line_of(match.start()), self.line_of(end), self.line_of(at))
                    break

    def body_lines(self):
        """The lines of functions, from `fn` to the closing bracket."""
        return {n for f in self.functions() for n in range(f.first, f.last + 1)}

    def comments(self):
        """Yields (line, text) of the comments that are no docs and run to the end of their line."""
        for match in sources.TOKENS.finditer(self.text):
            if match.group().startswith("//") and not match.group().startswith(("///", "//!")):
                yield self.line_of(match.start()), match.group()

    def types(self):
        """The types at the level of modules; what an impl or a trait names with `type` is none of them."""
        for match in TYPE.finditer(self.code):
            if match.group("kind") == "type" and len(match.group("indent")) > 4 * len(self.scope_at(match.start())):
                continue
            yield Type(match.group("name"), self.path, self.line_of(match.start("name")))

    def statics(self):
        return [m.group("name") for m in STATIC.finditer(self.code)]

    def shared_items(self):
        """Yields (name, is documented) of the pub(crate) items; modules, imports and fields are none."""
        for match in ITEM.finditer(self.code):
            at = self.line_of(match.start(1)) - 2
            while at >= 0 and re.match(r"\s*(#!?\[|\)\]|\]$)", self.lines[at]):
                at -= 1
            yield match.group(1), at >= 0 and self.lines[at].lstrip().startswith("///")

    def scope_at(self, at):
        """The names of the modules inside this file that hold a place."""
        return tuple(name for start, end, name in self.inline if start < at < end)


class Tree:
    """The files of one crate, from its root on."""

    def __init__(self, root, read):
        """`read` gives the text of a path, or None where there is no such file."""
        self.root, self.read = root, read
        self.sources, self.modules, self.module_of = {}, {}, {}
        self._load(root, (), os.path.dirname(root))
        self._uses = {path: list(self._uses_of(s)) for path, s in self.sources.items()}
        self.edges = {path: self._edges_of(s) for path, s in self.sources.items()}

    @classmethod
    def on_disk(cls, root):
        """The crate whose root lies at a path of the checkout."""
        def read(path):
            try:
                with open(os.path.join(sources.TOP, path), encoding="utf-8") as f:
                    return f.read()
            except FileNotFoundError:
                return None
        return cls(root, read)

    def _load(self, path, module, folder):
        source = Source(path, self.read(path))
        self.sources[path], self.module_of[path] = source, module
        self.modules[module] = path
        for match in MODULE.finditer(source.code):
            if match.group("end") == "{":
                source.inline.append((match.start(), closing(source.code, match.end() - 1), match.group("name")))
                self.modules[module + source.scope_at(match.start("end") - 1)] = path
                continue
            name, given = match.group("name"), None
            # The attribute's string is in the text only.
            before = source.text[:match.start("name")].splitlines()[-2:-1]
            if before:
                given = re.search(r'#\[path = "([^"]+)"\]', before[0])
            scope = module + source.scope_at(match.start())
            inside = os.path.join(folder, *source.scope_at(match.start()))
            if given:
                child = os.path.normpath(os.path.join(os.path.dirname(path), given.group(1)))
                self._load(child, scope + (name,), os.path.dirname(child) if child.endswith("/mod.rs")
                           else os.path.splitext(child)[0])
                continue
            for child in (os.path.join(inside, f"{name}.rs"), os.path.join(inside, name, "mod.rs")):
                if self.read(child) is not None:
                    self._load(child, scope + (name,), os.path.join(inside, name))
                    break

    def _uses_of(self, source):
        module = self.module_of[source.path]
        for match in USE.finditer(source.code):
            for path, alias in spread(match.group("tree").replace("\n", " ")):
                yield Use(path, alias, bool(match.group("pub")), module + source.scope_at(match.start("tree")))

    def resolve(self, path, scope, depth=0):
        """Returns (file, name of the item or None) that a path means in a module, or None where it leads outside."""
        at, rest = scope, list(path)
        if rest[0] == "crate":
            at, rest = (), rest[1:]
        elif rest[0] == "self":
            rest = rest[1:]
        elif rest[0] == "super":
            while rest and rest[0] == "super":
                at, rest = at[:-1], rest[1:]
        elif at + (rest[0],) not in self.modules:
            return self._resolve_imported(rest, scope, depth)
        while rest and at + (rest[0],) in self.modules:
            at, rest = at + (rest[0],), rest[1:]
        if at not in self.modules:
            return None
        if rest and depth < 8:
            for use in self._uses_in(at):
                if use.alias == rest[0] and use.is_public:
                    return self.resolve(use.path + tuple(rest[1:]), at, depth + 1)
        return self.modules[at], (rest[0] if rest else None)

    def _uses_in(self, module):
        uses = self._uses.get(self.modules[module], ()) if hasattr(self, "_uses") else ()
        return [u for u in uses if u.scope == module]

    def _resolve_imported(self, rest, scope, depth):
        if len(rest) < 2 and depth == 0 or depth >= 8 or scope not in self.modules:
            return None
        for use in self._uses_in(scope):
            if use.alias == rest[0] and use.path[0] != rest[0]:
                found = self.resolve(use.path, use.scope, depth + 1)
                if found and found[1] is None:
                    return self.resolve(use.path + tuple(rest[1:]), use.scope, depth + 1)
        return None

    def _edges_of(self, source):
        """Maps each file that this one imports to the names that it takes from there, with how they are written."""
        found = {}

        def note(path, scope, alias):
            target = self.resolve(path, scope)
            if target and target[0] != source.path:
                found.setdefault(target[0], set()).add((target[1], alias))

        plain = USE.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), source.code)
        plain = re.sub(r"\bpub\(in [^)]*\)", lambda m: " " * len(m.group()), plain)
        words = set(WORD.findall(plain))
        for use in self._uses[source.path]:
            if not use.is_public or use.alias in words:
                note(use.path, use.scope, use.alias)
        module = self.module_of[source.path]
        for match in PATH.finditer(plain):
            path = tuple(match.group(1).split("::"))
            note(path, module + source.scope_at(match.start()), "::".join(path[-2:]))
        return found

    def circles(self, without=frozenset()):
        """The strongly connected components of more than one file, each sorted, some files left out."""
        index, low, stack, on, result = {}, {}, [], set(), []

        def visit(v):
            index[v] = low[v] = len(index)
            stack.append(v)
            on.add(v)
            for w in self.edges[v].keys() - without:
                if w not in index:
                    visit(w)
                    low[v] = min(low[v], low[w])
                elif w in on:
                    low[v] = min(low[v], index[w])
            if low[v] == index[v]:
                part = set()
                while True:
                    w = stack.pop()
                    on.discard(w)
                    part.add(w)
                    if w == v:
                        break
                if len(part) > 1:
                    result.append(sorted(part))

        for v in self.edges.keys() - without:
            if v not in index:
                visit(v)
        return sorted(result)

    def reached(self, path):
        """All files that a file imports, directly or not."""
        seen, todo = set(), [path]
        while todo:
            for target in self.edges[todo.pop()]:
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        return seen


def module():
    """The kernel module."""
    return Tree.on_disk("rvmm.rs")


def tool():
    """rvmm-run."""
    return Tree.on_disk("userspace-tool/rvmm-run/src/lib.rs")


def host_tests():
    """The crate that compiles the module's files under cargo."""
    return Tree.on_disk("tests/host/src/lib.rs")
