"""Which cells of a submission run, and what is said of the others."""

import nbformat
import pytest

from course.autograder import config
from course.gate import Gate, Refusal, allowed
from course.master import read
from course.notebooks import notebook, student

CAMLIB = ["camlib.one_hot", "camlib.data.Scenes", "camlib.maps.minmax"]


def judge(*cells):
    """The code of the last cell, after the others were seen."""
    aliases = {"torch": "torch"}
    for cell in cells:
        body = allowed(cell, aliases, CAMLIB, ["ttest_rel", "CAMLoss"])
    return body


@pytest.mark.parametrize(
    "cell",
    [
        "import numpy as np\nx = np.einsum('ij->ji', np.ones((2, 3)))",
        "from torch.nn import functional as F\ny = F.relu(torch.ones(2))",
        "import camlib\nrows = camlib.one_hot(torch.tensor([1]), 3)",
        "from camlib.data import Scenes\nscenes = Scenes('test', count=3)\nscenes.labels",
        "from camlib import data\nscenes = data.Scenes('test')",
        "import camlib.maps\na = camlib.maps.minmax(torch.rand(1, 2, 2))",
        "class Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n        self._k = 1",
        "x = torch.rand(2, requires_grad=True)\nx.grad = None\nmodel = torch.nn.Linear(2, 2)\nmodel.eval()",
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    pass",
        "import pandas as pd\nframe = pd.DataFrame({'a': [1]}).to_dict()",
        "from scipy import stats\nstats.t.ppf(0.975, 4)",
        "def f(*args, **kwargs):\n    '''Its __init__ is plain.'''\n    return type(args)",
        "def f(input):\n    return input.chunk(2)",
        "x = [1, 2]\nx.copy()\nnumbers = list(range(3))",
    ],
)
def test_honest_cells_run(cell):
    assert judge(cell)


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("import camlib.maps\nmy_cam = camlib.maps.cam", "camlib.maps.cam"),
        ("import camlib\nmy_cam = camlib.maps.cam", "camlib.maps.cam"),
        ("import camlib as c\nm = c.maps\nmy_cam = m.cam", "camlib.maps"),
        ("from camlib.maps import cam as anything", "camlib.maps.cam"),
        ("from camlib.maps import *", "everything from camlib.maps"),
        ("from camlib import losses", "camlib.losses"),
        ("import camlib\nlibrary = camlib", "camlib as a value"),
        ("import camlib\nf = [camlib][0].maps.cam", "camlib as a value"),
        ("from scipy.stats import ttest_rel", "ttest_rel"),
        ("from scipy import stats\nstats.ttest_rel([1], [2])", "ttest_rel"),
        ("open('tests/map.py').read()", "uses open"),
        ("read = open", "uses open"),
        ("import os", "imports os"),
        ("import torch\ntorch.os.system('ls')", ".os"),
        ("from torch import os", ".os"),
        ("import numpy as np\nnp.load('x.npy')", ".load"),
        ("torch.save(1, 'x')", ".save"),
        ("import pandas as pd\npd.read_csv('x')", ".read_csv"),
        ("import pandas as pd\npd.DataFrame().to_pickle('x')", ".to_pickle"),
        ("import pandas as pd\npd.eval('1')", "text as code"),
        ("eval('1')", "uses eval"),
        ("().__class__", "reaches into"),
        ("getattr(torch, 'load')", "uses getattr"),
        ("x = '__import__'", "Python's insides"),
        ("torch.testing.assert_close = print", "sets torch.testing.assert_close"),
        ("torch.Tensor.sum = lambda self: 0", "sets torch.Tensor.sum"),
        ("class Yes:\n    def __eq__(self, other):\n        return True", "defines __eq__"),
        ("Yes = type('Yes', (), {})", "class with type()"),
        ("exit()", "uses exit"),
        ("raise SystemExit", "uses SystemExit"),
        ("import otter", "imports otter"),
        ("from otter.test_files import GradingResults", "imports otter"),
        ("def my_cam(f:\n  pass", "is not Python in line 1"),
        ("def f():\n  x = 1\n    y = 2", "is not Python in line 3"),
        ("%%bash\nls", "is not Python"),
        ("files = !ls", "get_ipython"),
        ("def open(path):\n    return path", "defines open"),
        ("_course_limit = None", "_course_limit"),
        ("(" * 2000 + ")" * 2000, "is not Python"),
    ],
)
def test_what_does_not_run_is_said_in_words(cell, why):
    with pytest.raises(Refusal) as refusal:
        judge(cell)
    assert why in str(refusal.value)


def test_a_name_bound_in_one_cell_is_known_in_the_next():
    with pytest.raises(Refusal, match=r"camlib\.maps\.cam"):
        judge("import camlib as c", "x = c.maps.cam")


def test_a_bare_except_does_not_catch_the_limit_on_time():
    assert judge("try:\n    x = 1\nexcept:\n    x = 2") == "try:\n    x = 1\nexcept Exception:\n    x = 2"


def test_magics_are_left_out():
    assert judge("%matplotlib inline\n!pip list\nx = 1") == "x = 1"
    assert judge("%%time\nx = 1") == "x = 1"


@pytest.fixture(scope="module")
def cam():
    return read("cam", "a")


def gate(master):
    return Gate("", {}, config(master)["plugins"][0]["course.gate.Gate"])


def sources(mine, submission):
    return "\n".join(cell.source for cell in mine.before_execution(submission).cells)


def test_the_handout_itself_is_not_run_and_said_to_be_blank(cam):
    mine = gate(cam)
    text = sources(mine, student(cam))
    assert mine.refusal is None
    assert "with _course_limit" not in text
    assert mine.lines == [f"Answer '{name}' is blank." for name in cam.right()]


def test_answers_run_without_metadata_names_order_and_the_handout_s_own_cells(cam):
    answers = [f"{cam.marker(name)}\n{source}" for name, source in cam.right().items()]
    bare = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in answers])
    mine = gate(cam)
    text = sources(mine, bare)
    assert mine.lines == []
    assert text.count("with _course_limit(") == len(answers)
    assert text.index("toy_f = torch.tensor") < text.index("with _course_limit(")


def test_an_edited_cell_of_the_handout_runs_after_the_original(cam):
    submission = notebook(cam, cam.right(), {})
    given = next(cell for cell in submission.cells if cell.id.startswith("given-"))
    given.source += "\nimport numpy as np"
    text = sources(gate(cam), submission)
    assert text.index("toy_f = torch.tensor") < text.index("import numpy as np")


def test_a_cell_that_may_not_run_costs_no_other(cam):
    mine = gate(cam)
    text = sources(mine, notebook(cam, cam.right() | {"stretch": "import os\n" + cam.right()["stretch"]}, {}))
    assert mine.lines == [
        "Answer 'stretch' is not run: it imports os, which is not among the modules an answer may use."
    ]
    assert "def my_cam" in text
    assert "def stretch" not in text


def test_another_section_is_refused(cam):
    mine = gate(cam)
    other = read("cam", "b")
    text = sources(mine, notebook(other, other.right(), {}))
    assert mine.refusal == (
        f"this is the notebook of cam, section {other.section}, and this grades cam, section {cam.section}"
    )
    assert "with _course_limit" not in text


def test_another_notebook_is_refused(cam):
    mine = gate(cam)
    mine.before_execution(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("my_cam = 1")]))
    assert "this is not the notebook handed out" in mine.refusal


def test_a_missing_and_an_emptied_answer_are_noted(cam):
    submission = notebook(cam, cam.right() | {"logit": ""}, {})
    submission.cells = [cell for cell in submission.cells if cell.id != "answer-map"]
    mine = gate(cam)
    mine.before_execution(submission)
    assert mine.lines == [
        "Answer 'map': no cell begins with its '# ANSWER' line.",
        "Answer 'logit' is blank.",
    ]


def test_text_of_several_lines_is_not_changed(cam):
    submission = notebook(cam, cam.right() | {"logit": 'text = """one\n  two\nthree"""'}, {})
    names = {}
    cell = next(c for c in gate(cam).before_execution(submission).cells if "text = " in c.source)
    exec("import contextlib\n_course_limit = lambda seconds: contextlib.nullcontext()\n" + cell.source, names)
    assert names["text"] == "one\n  two\nthree"


class Results:
    """What a plugin sees of otter's results."""

    def __init__(self, notebook):
        self.notebook = notebook

    def set_output(self, text):
        self.output = text

    def set_plugin_data(self, name, data):
        self.data = data


def graded(master, failing):
    """The results of right work in which the first cell that holds `failing` has stopped."""
    mine = gate(master)
    executed = mine.before_execution(notebook(master, master.right(), {}))
    executed.cells.insert(0, nbformat.v4.new_code_cell("import sys"))  # as otter does
    cell = next(cell for cell in executed.cells if failing in cell.source)
    cell.outputs = [nbformat.v4.new_output("error", ename="NameError", evalue="no such name", traceback=[])]
    results = Results(executed)
    mine.after_grading(results)
    return results


def test_an_answer_that_stopped_is_named(cam):
    results = graded(cam, "def stretch")
    assert results.data == {"refusal": None, "lines": ["Answer 'stretch' stopped with NameError: no such name."]}
    assert results.output == "Answer 'stretch' stopped with NameError: no such name."


def test_a_broken_grader_costs_nobody_points(cam):
    """As when camlib is not installed where the grading happens."""
    results = graded(cam, "from camlib.data import Scenes")
    assert "a cell that the assignment itself gives stopped with NameError" in results.data["refusal"]
    assert results.output.startswith("REFUSED: ")
