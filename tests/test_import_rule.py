"""Who may import whom: agent -> models <- coordinator, and scripts/multispin above all three.

Reads every import of every module, also those inside functions, so that nothing needs to be installed or run.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "multispin_models": ROOT / "models",
    "multispin_agent": ROOT / "agent",
    "multispin_coordinator": ROOT / "coordinator",
    "multispin": ROOT / "scripts",
}
MAY_IMPORT = {
    "multispin_models": {"multispin_models"},
    "multispin_agent": {"multispin_agent", "multispin_models"},
    "multispin_coordinator": {"multispin_coordinator", "multispin_models"},
    "multispin": set(PACKAGES),
}
# Slow to load, large, or an extra: each only in the modules that are about it (a name stands for its sub-modules too).
HEAVY = {
    "cryptography": {"multispin.campaign.hashing"},
    "gguf": {"multispin_models.distillation", "multispin_models.onnx"},
    "duckdb": {"multispin.campaign.stores"},
    "greenlet": {"multispin.simulate.virtual_time"},
    "huggingface_hub": {"multispin_models.hub"},
    "jinja2": {"multispin_models.chat_template"},
    "llama_cpp": {"multispin_models.llamacpp"},
    "matplotlib": {"multispin.campaign.drawings"},
    "onnx": {"multispin_models.onnx"},
    "onnxruntime": {"multispin_models.onnx"},
    "prometheus_client": {
        "multispin.top_table",
        "multispin_agent.api.collector",
        "multispin_coordinator.api.collector",
        "multispin_models.api.app",
        "multispin_models.api.generations",
        "multispin_models.api.prometheus",
    },
    "scipy": {"multispin.campaign.statistics"},
    "starlette": {
        "multispin_coordinator.page.access",
        "multispin_coordinator.page.endpoint",
        "multispin_models.api.app",
        "multispin_models.api.bodies",
        "multispin_models.api.completions",
        "multispin_models.api.guard",
        "multispin_models.api.interface",
        "multispin_models.api.server",
    },
    "tokenizers": {
        "multispin_models.gguf_merging",
        "multispin_models.gguf_pretokenizers",
        "multispin_models.gguf_tokenizer",
    },
    "uvicorn": {"multispin_models.api.connection", "multispin_models.api.server"},
}


def sources() -> Iterator[tuple[str, Path]]:
    """Yield the dotted name and the file of every module of the four packages."""
    for package, folder in PACKAGES.items():
        for path in sorted((folder / package).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(source: str, module: str, *, is_package: bool) -> set[str]:
    """Return the dotted names that a module imports, relative ones made absolute."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parents = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parents, *([base] if base else [])])
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def within(name: str, owners: set[str]) -> bool:
    return any(name == owner or name.startswith(f"{owner}.") for owner in owners)


MODULES = dict(sources())
IMPORTS = {
    module: imported(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py")
    for module, path in MODULES.items()
}


def test_every_package_was_found() -> None:
    assert set(PACKAGES) <= set(MODULES)
    assert "multispin_models.messages" in MODULES


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_those_below_it(package: str) -> None:
    forbidden = {
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in names
        if module.split(".")[0] == package and name.split(".")[0] in set(PACKAGES) - MAY_IMPORT[package]
    }
    assert forbidden == set()


@pytest.mark.parametrize("library", HEAVY)
def test_a_heavy_library_is_imported_only_where_it_belongs(library: str) -> None:
    forbidden = {
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in names
        if name.split(".")[0] == library and not within(module, HEAVY[library])
    }
    assert forbidden == set()


@pytest.mark.parametrize(
    "module", [*PACKAGES, "multispin.cli", "multispin_models.manifest", "multispin_models.messages"]
)
def test_loading_a_package_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set({list(HEAVY)}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a.b as c", {"a.b"}),
        ("from a import b", {"a", "a.b"}),
        ("def f():\n    from a.b import c", {"a.b", "a.b.c"}),
        ("from . import d", {"p.q", "p.q.d"}),
        ("from .d import e", {"p.q.d", "p.q.d.e"}),
        ("from ..d import e", {"p.d", "p.d.e"}),
    ],
)
def test_the_reader_of_imports_sees_every_form(source: str, names: set[str]) -> None:
    assert imported(source, "p.q.r", is_package=False) == names
    if source == "from .d import e":
        assert imported(source, "p.q.r", is_package=True) == {"p.q.r.d", "p.q.r.d.e"}
