"""Public docstrings say what one has to know, and their examples run, in this process."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dataclasses
import doctest
import inspect
import io
import itertools
import pkgutil
import re
import textwrap
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

import distcomp
from distcomp.bound_client import BoundClient
from distcomp.config import Settings
from distcomp.decorator import BoundCall, ComputeFunction
from distcomp.options import Options
from distcomp.settings_file import surroundings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INNER = re.compile(r"^    # --- (inside|what (?!users\b))", re.MULTILINE)
"""The heading in a class below which methods are for other modules of ours."""

REFERS = re.compile(r"(see|made by|[Ss]ame as|like|[Aa]s) `")
"""The rest is said in another docstring."""

VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
ALSO_PUBLIC = [BoundCall, BoundClient, ComputeFunction, Options, Settings.from_environment, surroundings]
"""What users meet without a name in `distcomp` itself."""


def public() -> Iterator[tuple[str, Any]]:
    """Every public object that is no error, then its methods, each with the name that users type."""
    named = [(name, getattr(distcomp, name)) for name in distcomp.__all__]
    for name, value in [*named, *((each.__qualname__, each) for each in ALSO_PUBLIC)]:
        is_error = inspect.isclass(value) and issubclass(value, BaseException)
        if not is_error:
            yield name, value
        if inspect.isclass(value) and not is_error:
            inner = INNER.split(inspect.getsource(value))[0]
            for member, item in vars(value).items():
                shown = getattr(item, "fget", item)
                if not member.startswith("_") and inspect.isfunction(shown) and f"def {member}(" in inner:
                    yield f"{name}.{member}", item


PUBLIC = dict(public())


def lacking(value: Any) -> Iterator[str]:
    """What the docstring of a class, function, method or property does not say."""
    text = inspect.getdoc(value) or ""
    if not text:
        yield "a docstring"
    if inspect.isclass(value) and "Example:" not in text:
        yield "an example"
    if "Example:" in text and ">>> " not in text:
        yield "an example that can run"
    made = value.__init__ if inspect.isclass(value) else getattr(value, "fget", value)
    if inspect.isfunction(made) and not dataclasses.is_dataclass(value) and not REFERS.search(text):
        yield from lacking_of_call(made, text)


def lacking_of_call(made: Any, text: str) -> Iterator[str]:
    """What a docstring does not say about a call, which no other docstring says."""
    signature = inspect.signature(made)
    given = [each for each in signature.parameters.values() if each.name != "self"]
    for each in given:
        if each.kind not in VARIABLE and not re.search(rf"\b{each.name}\b", text):
            yield f"argument {each.name}"
    if "Args:" in text and signature.return_annotation not in ("None", "NoReturn") and "Returns:" not in text:
        yield "what it returns"
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(made)))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            raised = ast.unparse(node.exc.func)
            if raised[0].isupper() and raised not in text:
                yield f"that it raises {raised}"
    if given and "Example:" not in text:
        yield "an example"


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_docstring_says_what_one_has_to_know(name: str) -> None:
    assert list(lacking(PUBLIC[name])) == []


@pytest.mark.parametrize(
    "name", [name for name in distcomp.__all__ if inspect.isclass(getattr(distcomp, name))]
)
def test_a_public_class_says_what_it_is(name: str) -> None:
    assert vars(getattr(distcomp, name))["__doc__"]


def squares(client: distcomp.Client) -> Any:
    """The function that many examples use."""
    return distcomp.compute_this(client=client)(square)


def square(number: int) -> int:
    return number * number


def modules() -> list[str]:
    found = pkgutil.walk_packages(distcomp.__path__, "distcomp.")
    return ["distcomp", *(each.name for each in found if not each.ispkg)]


@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = import_module(name)
    tests = [each for each in doctest.DocTestFinder(exclude_empty=True).find(module) if each.examples]
    if not tests:
        return
    said = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    names = {each: getattr(distcomp, each) for each in distcomp.__all__}
    for test in tests:
        with distcomp.Client("inline:") as client, contextlib.redirect_stderr(io.StringIO()):
            test.globs.update(names, asyncio=asyncio, itertools=itertools, client=client)
            with distcomp.Executor(client=client) as executor, distcomp.Pool(client=client) as pool:
                test.globs.update(executor=executor, pool=pool, square=squares(client))
                runner.run(test, out=said.write)
            test.globs.clear()
    assert runner.failures == 0, said.getvalue()
