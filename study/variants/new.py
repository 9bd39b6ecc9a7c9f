"""`make new-variant NAME=x`: a new method's file, LoRA with one function to change, and its line in the registry."""

import re
import sys
from keyword import iskeyword
from pathlib import Path

from study.errors import BadInput

REGISTRY = "__init__.py"
TEMPLATE = '''"""{name}: what it does in one clause (authors and year, arXiv id, equation)."""

from torch import Tensor

from study.variants import lora
from study.variants.base import Axis, Leaves, Lifted, Site, low_rank


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + s B A x, until it is the paper's equation: x N I, y N O -> N O."""
    return y + low_rank(x, p, h["scale"])


VARIANT = lora.VARIANT._replace(
    name="{name}",
    axis=Axis.RANK,
    category="new",
    paper="",
    forward=forward,
)
'''


def lay(name: str, folder: Path) -> Path:
    """Write folder/NAME.py and register it: the file's path. Raises BadInput where the name is none or is taken."""
    file, registry = folder / f"{name}.py", folder / REGISTRY
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or iskeyword(name):
        raise BadInput("NAME", repr(name), "a Python module's name in lower case: my_lora")
    if file.exists():
        raise BadInput("NAME", f"{name} is taken", "a name that no file of study/variants has")
    text = registry.read_text()
    last = re.search(r"^NAMES = \(.*?(?=^\))", text, re.MULTILINE | re.DOTALL)
    assert last, f"no NAMES in {registry}"
    registry.write_text(f'{text[: last.end()]}    "{name}",\n{text[last.end() :]}')
    file.write_text(TEMPLATE.format(name=name))
    return file


if __name__ == "__main__":
    try:
        laid = lay(" ".join(sys.argv[1:]), Path(__file__).parent)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"wrote study/variants/{laid.name} and its line in study/variants/{REGISTRY}")
    print(f"next: pytest tests/test_variants.py -k {laid.stem}; then make docs")
