#!/usr/bin/env python3
# ruff: noqa: T201  # written as plugins for strfry are
import json
import sys

WHITE_LIST = {
    "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798": True,
}

for line in sys.stdin:
    req = json.loads(line)

    if req["type"] != "new":
        print("unexpected request type", file=sys.stderr, flush=True)
        continue

    res = {"id": req["event"]["id"]}

    if req["event"]["pubkey"] in WHITE_LIST:
        res["action"] = "accept"
    else:
        res["action"] = "reject"
        res["msg"] = "blocked: not on white-list"

    print(json.dumps(res), flush=True)
