"""Conformance runs against the same real service as tests/system/api."""

import importlib.util
import sys
from pathlib import Path
from typing import Any


def _load(name: str, path: Path) -> Any:
    if name in sys.modules:
        return sys.modules[name]
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise ImportError(str(path))
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


_here = Path(__file__).resolve().parent
_load("conformance_reference", _here / "reference.py")
_service = _load("api_service_fixtures", _here.parent / "system" / "api" / "conftest.py")

catalog_mongod = _service.catalog_mongod
start_service = _service.start_service
service = _service.service
