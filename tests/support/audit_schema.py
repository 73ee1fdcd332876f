# SPDX-License-Identifier: GPL-3.0-or-later
"""Audit records against the published schema, docs/audit-record.schema.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

from .audit_logs import records

SCHEMA = Path(__file__).parents[2] / "docs" / "audit-record.schema.json"
_VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="ascii")))


def faults(record: dict[str, Any]) -> list[str]:
    """What the schema does not permit in `record`."""
    return [
        f"{record.get('seq')} {record.get('event')}: {error.json_path}: {error.message}"
        for error in _VALIDATOR.iter_errors(record)
    ]


def faults_of(log: Path) -> list[str]:
    """What the schema does not permit in the records of `log`."""
    return [fault for record in records(log) for fault in faults(record)]
