"""Write `run/aioapiqueue_run/gateway/aws_calls.json.gz`: how requests to each AWS service look.

`uvx nox -s names` does it, with the botocore of uv.lock and the newest one: where a path has
changed between them, both are in use. The tests in run/tests/gateway/test_calls.py make a request
of each operation that the installed botocore has, and look it up in the file.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

from tests.helpers.operations_file import version_of

FILE = Path(__file__).parents[2] / "run" / "aioapiqueue_run" / "gateway" / "aws_calls.json.gz"
ROUTED = {"rest-json", "rest-xml"}


def loader_of(folder=None):
    """Return the loader of a botocore: by default of the one installed."""
    from botocore.loaders import Loader

    folder = Loader.BUILTIN_DATA_PATH if folder is None else str(folder / "botocore" / "data")
    return Loader(extra_search_paths=[folder], include_default_search_paths=False)


def protocols_of(metadata):
    """Return the protocols that a service speaks."""
    return metadata.get("protocols") or [metadata["protocol"]]


def routes_of(model):
    """Yield method, path, what the request has besides, and the name of each operation.

    Of two with the same requests, the one that is deprecated is left out.
    """
    if not ROUTED & set(protocols_of(model["metadata"])):
        return
    seen = set()
    items = sorted(model["operations"].items(), key=lambda item: item[1].get("deprecated", False))
    for name, operation in items:
        http = operation["http"]
        path, _, query = http["requestUri"].partition("?")
        has = [one for one in query.split("&") if one]
        shape = model["shapes"].get(operation.get("input", {}).get("shape", ""), {})
        for required in shape.get("required", ()):
            member = shape["members"][required]
            if member.get("location") == "querystring":
                has.append(member["locationName"])
            elif member.get("location") == "header":
                has.append(f"{member['locationName'].lower()}:")
        request = http["method"], path, *sorted(has)
        if request not in seen or not operation.get("deprecated"):
            yield [http["method"], path, sorted(has), name]
        seen.add(request)


def sent_name(name, member, target, protocol):
    """Return the name by which a parameter is sent."""
    if protocol == "ec2":
        sent = member.get("queryName") or member.get("locationName", name)
        return sent[0].upper() + sent[1:]
    sent = member.get("locationName", name)
    element = target.get("member", {}).get("locationName")
    if protocol == "query" and target["type"] == "list" and element:
        return element if target.get("flattened") else f"{sent}.{element}"
    return sent


def names_of(model):
    """Return what parameters are called, by what they are sent as, where that differs.

    Where operations differ, "Operation.Sent" is the name of one of them.
    """
    protocols = protocols_of(model["metadata"])
    protocol = next((one for one in ("ec2", "query") if one in protocols), protocols[0])
    found = defaultdict(lambda: defaultdict(list))
    for operation, about in model["operations"].items():
        shape = model["shapes"].get(about.get("input", {}).get("shape", ""), {})
        for name, member in shape.get("members", {}).items():
            target = model["shapes"][member["shape"]]
            found[sent_name(name, member, target, protocol)][name].append(operation)
    names = {}
    for sent, by_name in sorted(found.items()):
        usual = Counter({name: len(ops) for name, ops in by_name.items()}).most_common(1)[0][0]
        if usual != sent:
            names[sent] = usual
        for name, operations in sorted(by_name.items()):
            if name != usual:
                names |= {f"{operation}.{sent}": name for operation in sorted(operations)}
    return names


def payloads_of(model):
    """Return the operations whose bodies are data, or the value of one parameter."""
    inputs = {
        name: model["shapes"].get(about.get("input", {}).get("shape", ""), {})
        for name, about in model["operations"].items()
    }
    return sorted(name for name, shape in inputs.items() if "payload" in shape)


def services_of(loader):
    """Yield each service."""
    for name in loader.list_available_services("service-2"):
        model = loader.load_service_model(name, "service-2")
        about = model["metadata"]
        yield {
            "name": name,
            "signing": about.get("signingName") or about["endpointPrefix"],
            "prefix": about["endpointPrefix"],
            "version": about["apiVersion"],
            "target": about.get("targetPrefix"),
            "protocols": protocols_of(about),
            "routes": sorted(routes_of(model)),
            "names": names_of(model),
            "payloads": payloads_of(model),
        }


def partitions_of(loader):
    """Yield each partition: its names of hosts, its Regions, and what has one endpoint in it."""
    endpoints = {one["partition"]: one for one in loader.load_data("endpoints")["partitions"]}
    for one in loader.load_data("partitions")["partitions"]:
        services = endpoints.get(one["id"], {"services": {}})["services"]
        yield {
            "suffixes": sorted({one["outputs"]["dnsSuffix"], one["outputs"]["dualStackDnsSuffix"]}),
            "regions": one["regionRegex"],
            "global": {
                name: about["partitionEndpoint"]
                for name, about in sorted(services.items())
                if about.get("isRegionalized") is False and "partitionEndpoint" in about
            },
        }


def table_of(newest):
    """Return the table of the installed botocore, and of one in another folder."""
    loader = loader_of(newest)
    services = {one["name"]: one for one in services_of(loader)}
    for older in services_of(loader_of()):
        one = services.setdefault(older["name"], older)
        changed = [route for route in older["routes"] if route not in one["routes"]]
        one["routes"] = sorted([*one["routes"], *changed])
        one["names"] = older["names"] | one["names"]
    return {
        "botocore": [version_of(), version_of(newest)],
        "partitions": list(partitions_of(loader)),
        "services": list(services.values()),
    }


def main(newest):
    """Write the file, the same bytes for the same versions of botocore."""
    text = json.dumps(table_of(newest), separators=(",", ":"))
    FILE.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
