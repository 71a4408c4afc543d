"""Accounts that schemathesis makes up are of the ledger now and then, and have no wrong checksum (EIP-55)."""

import re

import schemathesis

# The treasurer, Alice and Bob of place.rs.
KNOWN = [
    "0x46a23E25df9A0F6c18729ddA9Ad1aF3b6A131160",
    "0x5d5c99EdF529335160FF180fA141Dd4967fc00D2",
    "0xaf295d3c842bc1145E818d7FEf2c929726625620",
]
ACCOUNT = re.compile("^0x[0-9a-fA-F]{40}$")


def mended(value):
    if isinstance(value, dict):
        return {name: mended(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [mended(inner) for inner in value]
    if isinstance(value, str) and ACCOUNT.match(value):
        return KNOWN[int(value[2:], 16) % 3] if int(value[-1], 16) < 8 else value.lower()
    return value


@schemathesis.hook
def map_path_parameters(ctx, path_parameters):
    return mended(path_parameters)


@schemathesis.hook
def map_body(ctx, body):
    return mended(body)
