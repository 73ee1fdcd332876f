# SPDX-License-Identifier: GPL-3.0-or-later
"""Records in the forms that collectors take: OCSF events of the class API Activity, and ArcSight's CEF.

OCSF 1.3 (schema.ocsf.io) by its required and recommended attributes; CEF by "Implementing ArcSight Common Event
Format". What has no place of its own goes to `unmapped` and `raw_data`, and to custom strings.
"""

from __future__ import annotations

import json
from typing import Any

import domward

from .record import Event, Outcome
from .selection import Selected
from .summary import named, what
from .tail import wall_of

_API_ACTIVITY, _APPLICATION_ACTIVITY = 6003, 6
_OTHER, _CREATE, _READ = 99, 1, 2
_INFORMATIONAL, _LOW, _MEDIUM, _HIGH = 1, 2, 3, 4
_MILLISECOND = 1_000_000
_ACTIVITIES = {_OTHER: "Other", _CREATE: "Create", _READ: "Read"}
_GRAVE = frozenset({Event.PROTOCOL_VIOLATION.value, Event.LOG_DAMAGED.value})


def _severity(record: dict[str, Any]) -> int:
    if record["event"] in _GRAVE:
        return _HIGH
    if (
        record["outcome"] in (Outcome.REFUSED.value, Outcome.FAILED.value)
        or record["event"] == Event.LAYERS_MISSING.value
    ):
        return _MEDIUM
    return _INFORMATIONAL if record["outcome"] == Outcome.OK.value else _LOW


def ocsf(selected: Selected) -> dict[str, Any]:
    """`selected` as an event of OCSF."""
    record, origin = selected.record, selected.origin
    activity = {Event.REQUEST.value: _CREATE, Event.RESULT.value: _READ}.get(record["event"], _OTHER)
    actor, good = record["actor"], record["outcome"] == Outcome.OK.value
    event: dict[str, Any] = {
        "category_uid": _APPLICATION_ACTIVITY,
        "class_uid": _API_ACTIVITY,
        "activity_id": activity,
        "activity_name": _ACTIVITIES[activity] if activity != _OTHER else record["event"],
        "type_uid": _API_ACTIVITY * 100 + activity,
        "time": wall_of(record["time"]) // _MILLISECOND,
        "severity_id": _severity(record),
        "status_id": 1 if good else 2,
        "status": record["outcome"],
        "message": f"{record['event']}: {what(record)}".rstrip(": "),
        "metadata": {
            "version": "1.3.0",
            "product": {"name": "domward", "vendor_name": "domward", "version": domward.__version__},
            "log_name": "audit",
            "uid": record["hash"],
            "sequence": record["seq"],
            "original_time": record["time"],
            "correlation_uid": record["operation"],
        },
        "actor": {
            "process": {"pid": actor.get("pid"), "file": {"path": actor.get("exe"), "type_id": 1}},
            "user": {"uid": str(actor.get("uid")), "groups": [{"uid": str(actor.get("gid"))}]},
        },
        "api": {"operation": record["event"], "request": {"uid": record["operation"] or ""}},
        "src_endpoint": {"hostname": origin.host},
        "unmapped": {name: record[name] for name in ("boot", "monotonic", "errno", "domain", "detail", "prev", "hash")}
        | {"chain": origin.chain},
        "raw_data": selected.line.decode("ascii", "replace"),
    }
    code = record["detail"].get("code")
    if code is not None:
        event["status_code"] = code
    if record["domain"] is not None:
        event["resources"] = [{"type": "domain", "name": named(record["domain"]), "uid": record["domain"].get("uuid")}]
    return event


def ocsf_line(selected: Selected) -> str:
    """`ocsf` as one line of JSON."""
    return json.dumps(ocsf(selected), ensure_ascii=True, separators=(",", ":"))


def cef_line(selected: Selected) -> str:
    """`selected` as a line of CEF."""
    record, origin = selected.record, selected.origin
    actor, domain = record["actor"], named(record["domain"])
    severity = {_INFORMATIONAL: 1, _LOW: 3, _MEDIUM: 6, _HIGH: 9}[_severity(record)]
    header = ("domward", "domward", domward.__version__, record["event"], f"domward {record['event']}", severity)
    extension = {
        "rt": wall_of(record["time"]) // _MILLISECOND,
        "dvchost": origin.host,
        "externalId": record["seq"],
        "act": record["event"],
        "outcome": record["outcome"],
        "suid": actor.get("uid"),
        "spid": actor.get("pid"),
        "sproc": actor.get("exe"),
        "reason": record["detail"].get("code"),
        "msg": what(record),
        "cs1Label": "operation",
        "cs1": record["operation"],
        "cs2Label": "hash",
        "cs2": record["hash"],
        "cs3Label": "chain",
        "cs3": origin.chain,
        "cs4Label": "domain",
        "cs4": domain,
    }
    kept = {name: value for name, value in extension.items() if value not in (None, "")}
    for label in [name for name in kept if name.endswith("Label") and name[:-5] not in kept]:
        del kept[label]
    pairs = " ".join(f"{name}={_extension(value)}" for name, value in kept.items())
    return "|".join(("CEF:0", *(_header(value) for value in header), pairs))


def _header(value: object) -> str:
    return _ascii(value).replace("\\", "\\\\").replace("|", "\\|")


def _extension(value: object) -> str:
    return _ascii(value).replace("\\", "\\\\").replace("=", "\\=")


def _ascii(value: object) -> str:
    return "".join(character if " " <= character <= "~" else "?" for character in str(value))
