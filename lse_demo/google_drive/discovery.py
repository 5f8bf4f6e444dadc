"""Validation of requests and answers against Google's discovery document of Drive v3."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import unquote


class InvalidRequestError(ValueError):
    """A request that the discovery document does not allow. `location` is the parameter or field."""

    def __init__(self, message: str, location: str = "") -> None:
        super().__init__(message)
        self.location = location


@dataclass(frozen=True, slots=True)
class Call:
    """A request matched to a method of the API: `id` as in "drive.files.list", `params` from path and query."""

    id: str
    params: Mapping[str, str]
    request: str | None  # schema of the request's body
    response: str | None  # schema of the answer
    upload: bool

    def flag(self, name: str) -> bool:
        """A boolean parameter, false if absent."""
        return self.params.get(name, "false").lower() == "true"


@cache
def document() -> Mapping[str, Any]:
    """Returns the discovery document of Drive v3 that google-api-python-client bundles."""
    source = files("googleapiclient") / "discovery_cache" / "documents" / "drive.v3.json"
    return json.loads(source.read_text(encoding="utf-8"))


@cache
def _methods() -> tuple[tuple[str, re.Pattern[str], bool, Mapping[str, Any]], ...]:
    found = []

    def collect(resources: Mapping[str, Any]) -> None:
        for resource in resources.values():
            for method in resource.get("methods", {}).values():
                pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(method["path"]))
                service = "/" + document()["servicePath"]
                found.append((method["httpMethod"], re.compile(re.escape(service) + pattern), False, method))
                if "mediaUpload" in method:
                    found.append((method["httpMethod"], re.compile("/upload" + service + pattern), True, method))
            collect(resource.get("resources", {}))

    collect(document()["resources"])
    # Fixed paths first: files/generateIds is not the file "generateIds".
    return tuple(sorted(found, key=lambda entry: entry[1].groups))


def match(method: str, path: str, query: Mapping[str, str]) -> Call | None:
    """Returns the API method of a request; None if there is none. Raises InvalidRequestError for unknown parameters."""
    for verb, pattern, upload, spec in _methods():
        if verb == method and (found := pattern.fullmatch(path)):
            params = {name: unquote(value) for name, value in found.groupdict().items()} | dict(query)
            _check_params(spec, params)
            schema = {side: spec.get(side, {}).get("$ref") for side in ("request", "response")}
            return Call(spec["id"], params, schema["request"], schema["response"], upload)
    return None


def _check_params(spec: Mapping[str, Any], params: Mapping[str, str]) -> None:
    known = {**document()["parameters"], **spec.get("parameters", {})}
    for name, value in params.items():
        rule = known.get(name)
        if rule is None:
            if name == "upload_id":
                continue
            raise InvalidRequestError(f"Unknown parameter: {name}", name)
        kind = rule["type"]
        wrong = (
            (kind == "boolean" and value.lower() not in ("true", "false"))
            or (kind == "integer" and not re.fullmatch(r"-?\d+", value))
            or ("enum" in rule and value not in rule["enum"])
        )
        if not wrong and kind == "integer":
            wrong = not int(rule.get("minimum", value)) <= int(value) <= int(rule.get("maximum", value))
        if wrong:
            raise InvalidRequestError(f"Invalid value '{value}' for {name}", name)
    for name, rule in known.items():
        if rule.get("required") and name not in params:
            raise InvalidRequestError(f"Required parameter: {name}", name)


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}


def problems(schema: str | Mapping[str, Any], value: Any, where: str = "$") -> list[str]:
    """Returns the violations of a schema (a name or the schema itself) by `value`; empty if valid."""
    rule = document()["schemas"][schema] if isinstance(schema, str) else schema
    if "$ref" in rule:
        return problems(rule["$ref"], value, where)
    kind = rule.get("type", "any")
    if kind == "any":
        return []
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return [f"{where}: not of type {kind}"]
    if kind == "array":
        return [found for i, item in enumerate(value) for found in problems(rule["items"], item, f"{where}[{i}]")]
    if kind == "object":
        known, others = rule.get("properties", {}), rule.get("additionalProperties")
        result = []
        for key, item in value.items():
            if key not in known and others is None:
                result.append(f"{where}: no field {key!r}")
            else:
                result += problems(known.get(key, others), item, f"{where}.{key}")
        return result
    if rule.get("format") == "int64" and not re.fullmatch(r"-?\d+", str(value)):
        return [f"{where}: not an int64"]
    if rule.get("format") == "date-time" and not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", value):
        return [f"{where}: not a date-time"]
    return []


def select(schema: str, value: Mapping[str, Any], fields: str) -> dict[str, Any]:
    """Returns the part of an answer that `fields` selects. Raises InvalidRequestError for an unknown field."""
    tree = _parse_fields(fields)
    return _project({"$ref": schema}, value, tree)


def _parse_fields(text: str) -> dict[str, Any]:
    tokens = re.findall(r"[\w*]+|[(),/]", text)
    if "".join(tokens) != re.sub(r"\s", "", text) or not tokens:
        raise InvalidRequestError(f"Invalid field selection {text}", "fields")
    position = 0

    def take(expected: str = "") -> str:
        nonlocal position
        token = tokens[position] if position < len(tokens) else ""
        if not token or (expected and token != expected) or (not expected and token in "(),/"):
            raise InvalidRequestError(f"Invalid field selection {text}", "fields")
        position += 1
        return token

    def parse_list() -> dict[str, Any]:
        nonlocal position
        tree: dict[str, Any] = {}
        while True:
            branch = tree.setdefault(take(), {})
            while tokens[position : position + 1] == ["/"]:
                position += 1
                branch = branch.setdefault(take(), {})
            if tokens[position : position + 1] == ["("]:
                position += 1
                branch.update(parse_list())
                take(")")
            if tokens[position : position + 1] != [","]:
                return tree
            position += 1

    tree = parse_list()
    if position != len(tokens):
        raise InvalidRequestError(f"Invalid field selection {text}", "fields")
    return tree


def _project(rule: Mapping[str, Any], value: Any, tree: Mapping[str, Any]) -> Any:
    if "$ref" in rule:
        rule = document()["schemas"][rule["$ref"]]
    if not tree or "*" in tree:
        return value
    if rule.get("type") == "array":
        _project(rule["items"], {}, tree)  # an empty list, too, must reject unknown names
        return [_project(rule["items"], item, tree) for item in value or []]
    known, others = rule.get("properties", {}), rule.get("additionalProperties")
    result = {}
    for name, branch in tree.items():
        below = known.get(name, others)
        if below is None:
            raise InvalidRequestError(f"Invalid field selection {name}", "fields")
        if name in value:
            result[name] = _project(below, value[name], branch)
        elif branch:
            _project(below, [] if below.get("type") == "array" else {}, branch)
    return result
