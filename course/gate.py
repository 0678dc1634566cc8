"""What of a submission is run when it is graded: an otter plugin, which travels inside the autograder.

It takes the student's own cells out of the submitted notebook, whatever its name, version, metadata and order, and
puts them behind the cells that the handout gives. A cell runs only if its syntax tree holds nothing that
the assignment forbids; one that does not run costs its own points, and the report says why, in words. The handout's
own cells are replaced by the originals, so it does no harm to edit or to delete them.

This keeps honest work honest and stops what students try. It is no sandbox: Python cannot be fenced in by its
syntax alone, so run submissions of strangers in a container.
"""

import ast
import re
import sys

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

CELL_SECONDS = 30  # of processor time, for one cell of the student's: a busy machine must cost nobody points
MARKER = re.compile(r"^# ANSWER (\w+) \[([\w-]+) ([0-9a-f]{6})\]")
TIMED_CELL = re.compile(r"^%%(time|timeit|capture)\b.*\n")  # only these leave the rest of the cell Python

MODULES = {
    *("torch", "numpy", "scipy", "pandas", "matplotlib", "seaborn", "tqdm", "camlib"),
    *("abc", "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions"),
    *("functools", "heapq", "itertools", "json", "math", "numbers", "operator", "pprint", "random", "re"),
    *("statistics", "textwrap", "time", "typing", "warnings", "__future__"),
}
BUILTINS = {
    *("open", "exec", "eval", "compile", "__import__", "globals", "locals", "vars", "getattr", "setattr", "delattr"),
    *("breakpoint", "exit", "quit", "get_ipython"),
    *("SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseException"),
}
# Names behind a dot that reach files, processes, code in strings or the insides of a library.
ATTRIBUTES = {
    *("load", "save", "savez", "savez_compressed", "loadtxt", "savetxt", "genfromtxt", "fromfile", "tofile"),
    *("from_file", "fromregex", "memmap", "open_memmap", "DataSource", "dump", "savefig", "imread", "imsave"),
    *("load_state_dict_from_url", "hub", "utils", "ops", "load_library", "jit", "fx", "library", "package", "export"),
    *(
        "distributed",
        "serialization",
        "onnx",
        "overrides",
        "lib",
        "f2py",
        "ctypeslib",
        "runstring",
        "rundocs",
        "measure",
        "query",
    ),
    *("get_type_hints", "ForwardRef", "evaluate_forward_ref", "attrgetter", "methodcaller", "get_field", "sleep"),
    *("to_csv", "to_json", "to_pickle", "to_excel", "to_parquet", "to_hdf", "to_sql", "to_html", "to_feather"),
    *("to_stata", "to_orc", "to_latex", "to_markdown", "to_clipboard", "to_xml", "to_gbq"),
    *("f_back", "f_globals", "f_locals", "f_builtins", "tb_frame", "gi_frame", "cr_frame", "ag_frame", "mro"),
} | (
    set(sys.stdlib_module_names)
    - {
        "array",
        "bisect",
        "calendar",
        "chunk",
        "code",
        "collections",
        "copy",
        "datetime",
        "decimal",
        "enum",
        "fractions",
    }
    - {"heapq", "html", "json", "math", "numbers", "random", "re", "select", "stat", "statistics", "string"}
    - {"test", "time", "trace", "types", "typing"}
)
SETTABLE = {"requires_grad", "grad", "data", "weight", "bias", "training"}
SPECIAL = {
    *("__init__", "__call__", "__repr__", "__str__", "__len__", "__iter__", "__next__", "__getitem__", "__enter__"),
    *("__exit__", "__post_init__"),
}

LIMIT = """
import contextlib as _course_contextlib
import signal as _course_signal


class _CourseTimeout(BaseException):  # so that 'except Exception' does not swallow it
    pass


@_course_contextlib.contextmanager
def _course_limit(seconds):
    def stop(number, frame):
        raise _CourseTimeout(f"stopped after {seconds} seconds of processor time")

    _course_signal.signal(_course_signal.SIGPROF, stop)
    _course_signal.setitimer(_course_signal.ITIMER_PROF, seconds, 1)
    try:
        yield
    finally:
        _course_signal.setitimer(_course_signal.ITIMER_PROF, 0)
"""


class Refusal(Exception):
    """A cell is not run; the message says why, as the end of "is not run: it …"."""


class Gate:
    """The plugin: otter calls `before_execution` with the submission and `after_grading` with the results."""

    def __init__(self, submission_path, submission_metadata, config):
        self.config = config
        self.refusal = None
        self.lines = []  # of the report, one for each thing worth saying
        self.places = {}  # {index of a cell in the notebook that runs: its name}

    def before_execution(self, submission):
        """The notebook that is run: the given cells, then those of the student's that may run."""
        sources = [LIMIT, *self.config["given"]]
        own = [(self._name(i, text), text) for i, text in enumerate(_code(submission)) if not self._given(text)]
        self.refusal = self._wrong_notebook(submission)
        if self.refusal is None:
            aliases = {}
            for given in self.config["given"]:
                _bind(ast.parse(_python(given)), aliases)
            for name, text in own:
                try:
                    body = allowed(text, aliases, self.config["camlib"], self.config["refused"])
                except Refusal as why:
                    self.lines.append(f"{name} is not run: it {why}.")
                    continue
                if body:
                    self.places[len(sources)] = name
                    sources.append(f"with _course_limit({CELL_SECONDS}):\n" + _indented(body))
            self._note_blank(submission)
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        return nbformat.v4.new_notebook(cells=cells, metadata=kernel)

    def after_grading(self, results):
        """Add what happened to the results: to the text that Gradescope shows, and as data for `course.grade`."""
        executed = results.notebook.cells if results.notebook else []
        ours = [cell.source for cell in executed]
        first = ours.index(LIMIT) if LIMIT in ours else 0  # otter puts cells of its own in front
        for index, cell in enumerate(executed[first:]):
            for error in (output for output in cell.get("outputs", []) if output.output_type == "error"):
                said = f"{error.ename}: {error.evalue[:200]}"
                if index in self.places:
                    self.lines.append(f"{self.places[index]} stopped with {said}.")
                elif index <= len(self.config["given"]) and self.refusal is None:
                    # No student can cause that: the given cells run first.
                    self.refusal = f"a cell that the assignment itself gives stopped with {said}: mend the grader"
        text = f"REFUSED: {self.refusal}" if self.refusal else "\n".join(self.lines) or "Every cell of yours was run."
        results.set_output(text)
        results.set_plugin_data("course", {"refusal": self.refusal, "lines": self.lines})

    def generate_report(self):
        return ""

    def _given(self, text):
        return plain(text) in self.config["handout"]

    def _name(self, index, text):
        marker = MARKER.match(text.lstrip())
        return f"Answer '{marker[1]}'" if marker else f"Your code cell {index + 1}"

    def _wrong_notebook(self, submission):
        markers = [match for match in (MARKER.match(text.lstrip()) for text in _code(submission)) if match]
        ours = (self.config["assignment"], self.config["section"])
        for found in markers:
            if (found[2], found[3]) != ours:
                return (
                    f"this is the notebook of {found[2]}, section {found[3]}, "
                    f"and this grades {ours[0]}, section {ours[1]}"
                )
        if not markers:
            return f"no cell begins with '# ANSWER … [{ours[0]} {ours[1]}]', so this is not the notebook handed out"
        return None

    def _note_blank(self, submission):
        texts = [text.lstrip() for text in _code(submission)]
        for name in self.config["answers"]:
            mine = [text for text in texts if (m := MARKER.match(text)) and m[1] == name]
            if not mine:
                self.lines.append(f"Answer '{name}': no cell begins with its '# ANSWER' line.")
            elif all(self._given(text) or not MARKER.sub("", text.partition("\n")[2]).strip() for text in mine):
                self.lines.append(f"Answer '{name}' is blank.")


def allowed(text: str, aliases: dict[str, str], camlib: list[str], refused: list[str]) -> str:
    """The code of a student's cell, if it may run: without magics, comments and imports from the future.

    Args:
        text: the cell.
        aliases: {name: what was imported under it}, of the cells before; this cell's are added.
        camlib: names of camlib that may be used.
        refused: names that do the student's work.

    Raises:
        Refusal: it may not; the message says why.
    """
    try:
        tree = ast.parse(_python(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f" in line {error.lineno}" if getattr(error, "lineno", None) else ""
        said = getattr(error, "msg", str(error))
        raise Refusal(f"is not Python{where} ({type(error).__name__}: {said})") from None
    tree.body = [node for node in tree.body if not _is_magic(node) and not _is_future(node)]
    try:
        mine = dict(aliases)
        _bind(tree, mine)
        _Rules(mine, camlib, refused).visit(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                node.type = ast.Name("Exception", ast.Load())  # a bare one would swallow the limit on time
        body = ast.unparse(tree)
    except RecursionError:
        raise Refusal("nests too deeply") from None
    aliases.update(mine)
    return body


class _Rules(ast.NodeVisitor):
    """Raises `Refusal` at the first thing that a cell may not hold."""

    def __init__(self, aliases, camlib, refused):
        self.aliases, self.camlib, self.refused = aliases, camlib, refused

    def visit_Import(self, node):
        for name in node.names:
            self._import(name.name)

    def visit_ImportFrom(self, node):
        for name in node.names:
            if name.name == "*" and (node.module or "").startswith("camlib"):
                raise Refusal(f"imports everything from {node.module}")
            self._import(f"{node.module}.{name.name}" if not node.level else f".{node.module or ''}")

    def _import(self, dotted):
        first, *rest = dotted.split(".")
        if first not in MODULES:
            raise Refusal(f"imports {dotted}, which is not among the modules an answer may use")
        for part in rest:
            self._attribute(part)
        if first == "camlib" and not any(_below(a, dotted) or _below(dotted, a) for a in self.camlib):
            raise Refusal(f"uses {dotted}, and this assignment asks you to do without it")

    def visit_Name(self, node):
        if node.id in BUILTINS or (node.id.startswith("__") and node.id != "__name__") or node.id.startswith("_course"):
            raise Refusal(f"uses {node.id}")
        if node.id in self.refused:
            raise Refusal(f"uses {node.id}, which does what this assignment asks you to write")
        if self.aliases.get(node.id, "").split(".")[0] == "camlib":
            self._camlib(self.aliases[node.id])

    def visit_Attribute(self, node):
        dotted = self._dotted(node)
        chain = node
        while isinstance(chain, ast.Attribute):
            owner = chain.value.id if isinstance(chain.value, ast.Name) else ""
            if chain.attr.startswith("_") and chain.attr not in SPECIAL and (owner != "self" or chain.attr[:2] == "__"):
                raise Refusal(f"reaches into {ast.unparse(chain)}")
            self._attribute(chain.attr)
            chain = chain.value
        if isinstance(node.ctx, ast.Store | ast.Del) and node.attr not in SETTABLE and dotted.split(".")[0] != "self":
            raise Refusal(f"sets {ast.unparse(node)}")
        if dotted.split(".")[0] == "camlib":
            self._camlib(dotted)
        elif isinstance(chain, ast.Name):
            self.visit_Name(chain)
        else:
            self.visit(chain)

    def _attribute(self, name):
        if name in ATTRIBUTES or name.startswith("read_"):
            raise Refusal(f"uses .{name}, which can reach files or code outside of the notebook")
        if name in self.refused:
            raise Refusal(f"uses {name}, which does what this assignment asks you to write")

    def _camlib(self, dotted):
        if dotted == "camlib":
            raise Refusal("uses camlib as a value: name what you use in full, as camlib.one_hot")
        if not any(_below(dotted, name) for name in self.camlib):
            raise Refusal(f"uses {dotted}, and this assignment asks you to do without it")

    def _dotted(self, node):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        return ".".join([self.aliases.get(node.id, node.id), *reversed(parts)])

    def visit_Call(self, node):
        if isinstance(node.func, ast.Name) and node.func.id == "type" and len(node.args) != 1:
            raise Refusal("makes a class with type()")
        if isinstance(node.func, ast.Attribute) and node.func.attr == "eval" and (node.args or node.keywords):
            raise Refusal("evaluates text as code")
        self.generic_visit(node)

    def visit_FunctionDef(self, node):
        self._defines(node.name)
        self.generic_visit(node)

    def visit_ClassDef(self, node):
        self._defines(node.name)
        self.generic_visit(node)

    def visit_arg(self, node):
        self._defines(node.arg)
        self.generic_visit(node)

    def _defines(self, name):
        if name in BUILTINS or name.startswith("_course") or (name.startswith("__") and name not in SPECIAL):
            raise Refusal(f"defines {name}")

    def visit_Constant(self, node):
        if isinstance(node.value, str) and re.search(
            r"__(import|builtins|class|globals|subclasses|dict|base)", node.value
        ):
            raise Refusal("holds text that names Python's insides")


def _bind(tree, aliases):
    """Note what the imports of a cell bind, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                aliases[name.asname or name.name.split(".")[0]] = name.name if name.asname else name.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for name in node.names:
                aliases[name.asname or name.name] = f"{node.module}.{name.name}"


def _below(dotted, name):
    return dotted == name or dotted.startswith(f"{name}.")


def _code(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def plain(text):
    """A cell without what an editor may change by itself."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _python(text):
    if text.lstrip().startswith("%%"):
        text, found = TIMED_CELL.subn("", text.lstrip() + "\n")
        if not found:
            raise SyntaxError(f"a cell of {text.split()[0]}")
    return TransformerManager().transform_cell(text)


def _is_magic(node):
    """A line such as `%matplotlib inline` or `!pip list`, alone in its statement."""
    return isinstance(node, ast.Expr) and "get_ipython()" in ast.unparse(node).split(".")[0]


def _is_future(node):
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _indented(body):
    # By the tree, as indenting the text would change strings of several lines.
    wrapped = ast.parse("with _:\n pass")
    wrapped.body[0].body = ast.parse(body).body
    return ast.unparse(wrapped).partition("\n")[2]
