"""The rules of the house that cannot be said as an import (those stand in ``pyproject.toml``)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "flaskllm"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
VENDORS = {"openai", "azure_openai", "anthropic", "gemini", "grok", "ngrok", "llama", "xai"}
MAY_KNOW_FLASK = (
    "blueprints",
    "cli.py",
    "cli_catalogue.py",
    "cli_demo.py",
    "cli_worker.py",
    "observability.py",
    "app.py",
    "wiring.py",
    "extensions.py",
)


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in FILES:
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text())


def test_only_the_settings_read_the_environment() -> None:
    guilty = [name for name, tree in trees() if name != "config.py" and "environ" in _attributes_of(tree, "os")]
    assert guilty == []


def test_only_the_doors_know_the_request() -> None:
    names = {"request", "g", "current_app", "session"}
    guilty = [
        name
        for name, tree in trees()
        if not name.startswith(MAY_KNOW_FLASK)
        and any(
            isinstance(node, ast.ImportFrom) and node.module == "flask" and _imported(node) & names
            for node in ast.walk(tree)
        )
    ]
    assert guilty == []


def test_nobody_uses_the_scoped_session() -> None:
    guilty = [name for name, tree in trees() if "session" in _attributes_of(tree, "db") and name != "wiring.py"]
    assert guilty == []


def test_no_vendor_is_named_in_a_comparison_outside_the_adapters() -> None:
    guilty = [
        f"{name}:{node.lineno}"
        for name, tree in trees()
        if not name.startswith(("adapters/", "data/", "config.py", "wire/errors.py"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and _strings(node) & VENDORS
    ]
    assert guilty == []


def test_only_models_and_repositories_speak_sql() -> None:
    words = {
        "and_",
        "case",
        "delete",
        "exists",
        "func",
        "insert",
        "literal",
        "or_",
        "select",
        "text",
        "union",
        "update",
    }
    guilty = [
        name
        for name, tree in trees()
        if not name.startswith(("models/", "repositories/"))
        and any(
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("sqlalchemy")
            and _imported(node) & words
            for node in ast.walk(tree)
        )
    ]
    assert guilty == []


def test_only_the_database_commits() -> None:
    guilty = [
        name
        for name, _ in trees()
        if re.search(r"\.(commit|rollback)\(", (PACKAGE / name).read_text())
        and name not in ("repositories/database.py", "repositories/committer.py")
    ]
    assert guilty == []


@pytest.mark.parametrize("word", ["eval(", "exec(", "pickle", "yaml.unsafe_load(", "UnsafeLoader", "FullLoader"])
def test_no_code_comes_from_data(word: str) -> None:
    guilty = [name for name, _ in trees() if re.search(rf"(?<![\w.]){re.escape(word)}", (PACKAGE / name).read_text())]
    assert guilty == []


def test_nothing_is_left_for_later() -> None:
    words = ("TODO", "FIXME", "XXX", "NotImplementedError")
    assert [name for name, _ in trees() if any(word in (PACKAGE / name).read_text() for word in words)] == []


def _attributes_of(tree: ast.Module, owner: str) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == owner
    }


def _imported(node: ast.ImportFrom) -> set[str]:
    return {alias.name for alias in node.names}


def _strings(node: ast.AST) -> set[str]:
    return {found.value for found in ast.walk(node) if isinstance(found, ast.Constant) and isinstance(found.value, str)}
