"""Runs classes of CPython's own test suite against ours; a program, for `test_standard_suites`.

The suite is not installed with every Python. What it wants of the standard library's own insides, and not of
what users are promised, is left out by name.
"""

from __future__ import annotations

import importlib
import sys
import unittest
from typing import Any

import distcomp

MISSING = 77
TRIES = 3
"""Many of these tests have a second or two for something: what a busy machine fails in is tried again."""

LEFT_OUT = {
    "test_make_pool": "counts the process objects in _pool",
    "test_traceback": "wants the standard library's own class as the cause",
    "test_wrapped_exception": "sends its class by value, as it is made here, and the pool with it",
    "test_interpreter_shutdown": "imports the executor from concurrent.futures by its name",
    "test_submit_after_interpreter_shutdown": "imports the executor from concurrent.futures by its name",
    "test_hang_gh83386": "imports the executor from concurrent.futures by its name",
}


def look_up(names: list[str], attribute: str) -> Any:
    """The attribute of the first module that is there."""
    for name in names:
        try:
            return getattr(importlib.import_module(name), attribute)
        except ModuleNotFoundError:  # noqa: PERF203 - few rounds, each of which may fail
            continue
    print(f"Python {sys.version.split()[0]} has none of {', '.join(names)}")  # noqa: T201 - the reason to skip
    raise SystemExit(MISSING)


def executor_cases() -> list[type[unittest.TestCase]]:
    package = "test.test_concurrent_futures"
    base = look_up([f"{package}.util", package], "BaseTestCase")
    mixin = look_up([f"{package}.util", package], "ExecutorMixin")
    ours = type("Ours", (mixin,), {"executor_type": distcomp.Executor})
    wanted = [
        ("executor", "ExecutorTest"),
        ("test_wait", "WaitTests"),
        ("test_as_completed", "AsCompletedTests"),
        ("test_shutdown", "ExecutorShutdownTest"),
    ]
    cases = [
        type(name, (look_up([f"{package}.{module}", package], name), ours, base), {})
        for module, name in wanted
    ]
    for name in ("InitializerMixin", "FailingInitializerMixin"):
        found = look_up([f"{package}.test_init", package], name)
        cases.append(type(name, (found, ours, base), {}))
    return cases


def pool_cases() -> list[type[unittest.TestCase]]:
    suite = look_up(["test._test_multiprocessing"], "_TestPool")
    ours = {
        "TYPE": "processes",
        "Pool": staticmethod(distcomp.Pool),
        "assertTimingAlmostEqual": lambda *_: None,
    }
    return [type("PoolTest", (suite, unittest.TestCase), ours)]


def main(what: str) -> int:
    tests: list[unittest.TestCase] = []
    for case in {"executor": executor_cases, "pool": pool_cases}[what]():
        names = unittest.defaultTestLoader.getTestCaseNames(case)
        tests += [case(name) for name in names if name not in LEFT_OUT]
    for _ in range(TRIES):
        result = unittest.TextTestRunner(sys.stdout, verbosity=2).run(unittest.TestSuite(tests))
        if result.wasSuccessful():
            return 0 if result.testsRun else 1
        failed = {test.id() for test, _ in result.failures + result.errors}
        tests = [type(test)(test._testMethodName) for test in tests if test.id() in failed]
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
