"""One prompt, computed in a prefill process and continued in a decode process, compared with a single process.

The two have nothing in common but the pages that kvx moves, and what a router would tell both: room, prompt, and where the
bootstrap service of prefill is. `tiny.py` and `../torch/run.py` give the model.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import secrets
import sys
from dataclasses import dataclass, field
from typing import Any, Callable

import kvx_host as kvx

WAIT_SECONDS = 300


@dataclass
class Job:
    """`make(device)` makes a model with
    - `paged`, the shape and the place of its cache, and `memory`, as kvx takes them, and `page_tokens`,
    - `spoil()`: fills the whole cache with NaN,
    - `step(ids, start, pages)`: computes tokens `start`, `start + 1`, …, whose keys and values go to `pages`; the next token,
    - `synchronize()`: waits until the cache holds what was computed,
    - `cache(tokens, pages)`: a digest of the keys and values of the first `tokens`, in the order of the prompt.
    """

    make: Callable[[str], Any]
    prompt: list[int]
    chunk: int
    answer: int
    prefill_pages: list[int]
    decode_pages: list[int]
    devices: tuple[str, str] = ("cpu", "cpu")
    suppress: bool = False
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    room: int = field(default_factory=lambda: secrets.randbits(64))

    def chunks(self) -> list[tuple[int, int]]:
        ends = [*range(self.chunk, len(self.prompt), self.chunk), len(self.prompt)]
        return list(zip([0, *ends], ends))


def prefill(job: Job, pipe: Any) -> None:
    model = job.make(job.devices[0])
    serve = {"host": "127.0.0.1", "port": 0}
    with kvx.Prefill(**_options(job, model), serve=serve) as manager:
        pipe.send(manager.bootstrap)
        sender = manager.send(job.room, job.prompt)
        sender.reserved().result()  # only now it takes pages and its turn at the model
        writes = []
        for start, end in job.chunks():
            first = model.step(job.prompt[start:end], start, job.prefill_pages)
            model.synchronize()
            held = job.prefill_pages[start // model.page_tokens : -(-end // model.page_tokens)]
            writes.append(sender.write(tokens=(start, end), pages=held))  # moves while the next chunk is computed
        for write in writes:
            write.result()
        report = sender.finish(aux={"firstToken": first}).result()
        sender.settled.result()  # the pages may be used for others
        pipe.send((report, model.cache(len(job.prompt), job.prefill_pages)))
        pipe.recv()


def decode(job: Job, pipe: Any) -> None:
    model = job.make(job.devices[1])
    model.spoil()
    landing = job.make(job.devices[1]) if job.suppress else model
    with kvx.Decode(**_options(job, landing)) as manager:
        receiver = manager.receive(job.room, job.prompt, source=pipe.recv())
        tokens = len(job.prompt)
        receiver.reserve(pages=job.decode_pages[: -(-tokens // model.page_tokens)]).result()
        received = receiver.done.result()
        cache = model.cache(tokens, job.decode_pages)
        answer = generate(model, received["aux"]["firstToken"], job, job.decode_pages)
        receiver.settled.result()
    pipe.send((answer, cache, received["report"]))


def single(job: Job) -> list[int]:
    model = job.make(job.devices[1])
    pages = job.decode_pages[::-1]
    for start, end in job.chunks():
        first = model.step(job.prompt[start:end], start, pages)
    return generate(model, first, job, pages)


def generate(model: Any, first: int, job: Job, pages: list[int]) -> list[int]:
    answer = [first]
    for position in range(len(job.prompt), len(job.prompt) + job.answer - 1):
        answer.append(model.step([answer[-1]], position, pages))
    return answer


def _options(job: Job, model: Any) -> dict:
    return {"backend": "shm", "token": job.token, "memory": model.memory, **model.paged}


def paged(model: str, layers: int, heads: int, head_bytes: int, dtype: str, pages: int, page_tokens: int) -> dict:
    """Shape and place of a cache in one region: of each layer all pages of K, then all of V, each [token][head][dim]."""
    page_bytes = page_tokens * heads * head_bytes
    parts = [(layer, which, part) for layer in range(layers) for which, part in enumerate(("k", "v"))]
    shapes = [
        {"layer": layer, "part": part, "dtype": dtype, "units": heads, "unitBytes": head_bytes} for layer, _, part in parts
    ]
    places = [
        {
            **{"component": "kv", "layer": layer, "part": part, "order": "NHD"},
            **{"region": 0, "base": (2 * layer + which) * pages * page_bytes, "pageBytes": page_bytes},
        }
        for layer, which, part in parts
    ]
    components = [{"name": "kv", "addressed": "tokens", "tensors": shapes}]
    return {
        "shape": {"model": model, "layers": layers, "components": components},
        "place": {"components": {"kv": {"pageTokens": page_tokens, "pages": pages}}, "tensors": places},
    }


def run(job: Job) -> dict:
    """What both sides found, as an object for JSON; `ok` when the answer and the cache are those that they should be."""
    expected = single(job)
    spawn = multiprocessing.get_context("spawn")  # CUDA cannot be used in a fork
    (to_prefill, prefill_end), (to_decode, decode_end) = spawn.Pipe(), spawn.Pipe()
    processes = [
        spawn.Process(target=prefill, args=(job, prefill_end), daemon=True),
        spawn.Process(target=decode, args=(job, decode_end), daemon=True),
    ]
    for process, end in zip(processes, (prefill_end, decode_end)):
        process.start()
        end.close()  # so that a process that dies is an EOFError here
    to_decode.send(_heard(to_prefill))
    answer, cache, report = _heard(to_decode)
    sent, source = _heard(to_prefill)
    to_prefill.send("end")
    for process in processes:
        process.join(WAIT_SECONDS)
    found = {
        "tokensEqual": answer == expected,
        "cacheEqual": cache == source,
        "reportsEqual": sent == report,
        "exited": [process.exitcode for process in processes],
    }
    ok = found == {"tokensEqual": True, "cacheEqual": True, "reportsEqual": True, "exited": [0, 0]}
    return {"ok": ok, **found, "distinct": len(set(expected)), "answer": answer, "report": report}


def _heard(pipe: Any) -> Any:
    if not pipe.poll(WAIT_SECONDS):
        raise TimeoutError(f"a process said nothing for {WAIT_SECONDS} s")
    return pipe.recv()


def main(make_job: Callable[..., Job], devices: str) -> None:
    """Prints what was found, and exits with 1 when it is not what it should be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", default=devices, help="of prefill and decode, such as cuda:0,cuda:1 or cpu,cpu")
    parser.add_argument("--suppress-transfer", action="store_true", help="decode's pages stay as they were: this must fail")
    given = parser.parse_args()
    first, second = given.devices.split(",")
    found = run(make_job(devices=(first, second), suppress=given.suppress_transfer))
    print(json.dumps({"devices": given.devices, "suppressed": given.suppress_transfer, **found}))
    sys.exit(0 if found["ok"] else 1)
