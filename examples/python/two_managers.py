"""One prompt's KV cache crosses from a prefill manager to a decode manager, here in one process."""

import os
import secrets

import kvx_host as kvx

# What the cache is, the same on both sides: one layer with K and V of one head of 64 numbers in 16 bits.
HEAD_BYTES = 128
SHAPE = {
    "model": "example",
    "layers": 1,
    "components": [
        {
            "name": "kv",
            "addressed": "tokens",
            "tensors": [
                {"layer": 0, "part": part, "dtype": "f16", "units": 1, "unitBytes": HEAD_BYTES} for part in ("k", "v")
            ],
        }
    ],
}

# Where a rank keeps it: 8 pages of 16 tokens, all of K before all of V, each [token][head][dim].
PAGES, PAGE_TOKENS = 8, 16
PAGE = PAGE_TOKENS * HEAD_BYTES
PLACE = {
    "components": {"kv": {"pageTokens": PAGE_TOKENS, "pages": PAGES}},
    "tensors": [
        {
            **{"component": "kv", "layer": 0, "part": part, "order": "NHD"},
            **{"region": 0, "base": which * PAGES * PAGE, "pageBytes": PAGE},
        }
        for which, part in enumerate(("k", "v"))
    ],
}
common = {"backend": "shm", "shape": SHAPE, "place": PLACE, "token": secrets.token_hex(16)}

source, target = kvx.HostMemory(2 * PAGES * PAGE), kvx.HostMemory(2 * PAGES * PAGE)
serve = {"host": "127.0.0.1", "port": 0}  # prefill's bootstrap service, by which decode finds its ranks
with kvx.Prefill(**common, memory=[source], serve=serve) as prefill, kvx.Decode(**common, memory=[target]) as decode:
    room, ids = 7, list(range(2 * PAGE_TOKENS))  # both sides know the room, from the router, and the prompt
    receiver = decode.receive(room, ids, source=prefill.bootstrap)
    sender = prefill.send(room, ids)
    receiver.reserve(pages=[5, 2]).result()
    sender.reserved().result()  # decode has given its pages

    source.map[:] = os.urandom(len(source.map))  # what the model computes
    sender.write(tokens=(0, len(ids)), pages=[0, 1]).result()  # once per chunk; goes on while the next is computed
    finished = sender.finish(aux={"firstToken": 42})
    received = receiver.done.result()  # or a KvxError with code, phase, peer
    finished.result()
    sender.settled.result()
    receiver.settled.result()  # the pages may be used again


def page(memory, number):
    return memory.map[number * PAGE : (number + 1) * PAGE]


assert page(target, 5) == page(source, 0) and page(target, 2) == page(source, 1)
assert page(target, 0) == bytes(PAGE)  # a page that was not asked for
print("arrived:", received["report"]["bytes"], "bytes, first token", received["aux"]["firstToken"])
