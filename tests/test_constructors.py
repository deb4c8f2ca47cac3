"""Making an object opens, reads and starts nothing: methods do, where a caller expects errors."""

import ast
from pathlib import Path

import kvstream

PACKAGE = Path(kvstream.__file__).parent

# Calls that reach the world outside, by the last part of their names.
OUTSIDE = {
    *("open", "fdopen", "read_text", "read_bytes", "write_text", "write_bytes", "write", "flush", "fcntl"),
    *("stat", "lstat", "fstat", "exists", "lexists", "is_file", "is_dir", "isfile", "isdir", "getsize"),
    *(
        "listdir",
        "scandir",
        "iterdir",
        "glob",
        "rglob",
        "mkdir",
        "makedirs",
        "unlink",
        "touch",
        "which",
        "Popen",
    ),
    *("socket", "create_connection", "connect", "bind", "listen", "send", "sendall", "get_monitor_socket"),
    *("create_ssl_context", "create_default_context", "load_cert_chain", "load_verify_locations"),
    *("start", "start_soon", "BatchLogRecordProcessor", "OSFile", "ParquetWriter", "url_to_fs"),
    "made",  # a Kafka client, with its threads and connections
}
# Functions that read data of the package, which is there as its modules are.
PACKAGE_DATA = {"builtin_text", "captured_batches"}
CONSTRUCTORS = ("__init__", "__post_init__")

# What is called all the same, by class, and why.
ALLOWED = {
    ("EngineMetrics", "found.start"): "the start of a regular expression's match",
}


class Calls(ast.NodeVisitor):
    """The calls that a function makes itself, not those of the functions and lambdas in it."""

    def __init__(self, function):
        self.found = []
        for statement in function.body:
            self.visit(statement)

    def visit_Call(self, node):
        self.found.append(node.func)
        self.generic_visit(node)

    def visit_FunctionDef(self, node):
        pass

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef  # noqa: N815 - names of ast


class Tree:
    """Functions and classes of all modules of a package, and what each module imports of it."""

    def __init__(self, root, name):
        self.modules, self.imports = {}, {}
        for path in sorted(root.rglob("*.py")):
            dotted = ".".join((name, *path.relative_to(root).with_suffix("").parts))
            body = ast.parse(path.read_text(), str(path))
            self.modules[dotted] = {
                node.name: node for node in body.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
            }
            self.imports[dotted] = {
                alias.asname or alias.name: (node.module, alias.name)
                for node in ast.walk(body)
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }

    def named(self, module, name):
        """The module and the definition of a name that a module uses; None if it is not the package's."""
        module, name = self.imports[module].get(name, (module, name))
        return module, self.modules.get(module, {}).get(name)

    def outside_calls(self, module, function, own, seen):
        """Calls of ``OUTSIDE`` in a function and in what it calls of the package, as text."""
        if function in seen:
            return
        seen.add(function)
        for called in Calls(function).found:
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            at, inner, methods = module, None, own
            if isinstance(called, ast.Name):
                at, inner = self.named(module, name)
                methods = {}
            elif isinstance(called.value, ast.Name):
                _, of = self.named(module, called.value.id)
                if called.value.id in ("self", "cls"):
                    inner = own.get(name)
                elif isinstance(of, ast.ClassDef):
                    at, methods = self.named(module, called.value.id)[0], methods_of(of)
                    inner = methods.get(name)
            if name in PACKAGE_DATA:
                continue
            if isinstance(called, ast.Name) and name in OUTSIDE:
                yield name
            elif isinstance(inner, ast.ClassDef):
                yield from self.of_constructors(at, inner, seen)
            elif inner is not None:
                yield from self.outside_calls(at, inner, methods, seen)
            elif name in OUTSIDE:
                yield ast.unparse(called)

    def of_constructors(self, module, made, seen):
        own = methods_of(made)
        for constructor in filter(None, map(own.get, CONSTRUCTORS)):
            yield from self.outside_calls(module, constructor, own, seen)

    def offenders(self):
        """Pairs of a class and a call of its constructor."""
        return {
            (made.name, call)
            for module, names in self.modules.items()
            for made in names.values()
            if isinstance(made, ast.ClassDef)
            for call in self.of_constructors(module, made, set())
        }


def methods_of(made):
    return {node.name: node for node in made.body if isinstance(node, ast.FunctionDef)}


def test_no_constructor_opens_reads_writes_connects_or_starts_anything():
    assert Tree(PACKAGE, "kvstream").offenders() == set(ALLOWED)


def test_a_constructor_that_does_is_found_wherever_the_call_stands(tmp_path):
    (tmp_path / "files.py").write_text("def read(path):\n    return os.stat(path)\n")
    (tmp_path / "made.py").write_text(
        """
from made.files import read

class Direct:
    def __init__(self, path):
        self.file = path.open()

class ByMethod:
    def __init__(self):
        self._begin()
    def _begin(self):
        threading.Thread(target=self._begin).start()

class ByFunction:
    def __post_init__(self):
        read(self.path)

class ByClassMethod:
    def __init__(self):
        self.part = Later.read("x")

class ByPart:
    def __init__(self):
        self.part = Direct("x")

class Later:
    def __init__(self):
        self.load = lambda: open("x")
    @classmethod
    def read(cls, path):
        open(path)
        return cls()
"""
    )
    assert Tree(tmp_path, "made").offenders() == {
        ("Direct", "path.open"),
        ("ByMethod", "threading.Thread(target=self._begin).start"),
        ("ByFunction", "os.stat"),
        ("ByClassMethod", "open"),
        ("ByPart", "path.open"),
    }
