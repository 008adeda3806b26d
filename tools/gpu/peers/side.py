"""One side of a measured transfer by another library: `python side.py nixl|mooncake|copy PLACE BYTES`, PLACE being `cpu` or the ordinal of
a GPU. Questions come as lines of JSON on standard input, and each has one answer on file descriptor 3; the process ends with its input.

The work is that of the bench of kvx: runs in up to 64 lanes, whose pages are in random order on both sides. `copy` is one large copy
by the driver, within this process: the limit of the others.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time

import numpy as np
import torch


class Memory:
    """Bytes in one place, that differ in every word of eight."""

    def __init__(self, place: str, size: int):
        self.gpu = None if place == "cpu" else int(place)
        self.size = size
        if self.gpu is not None:
            torch.cuda.set_device(self.gpu)
        words = pattern(size, "cpu" if self.gpu is None else "cuda")
        if self.gpu is None and torch.cuda.is_available():
            words = words.pin_memory()
        self.words = words
        self.base = words.data_ptr()
        self.synchronize()

    def synchronize(self) -> None:
        if self.gpu is not None:
            torch.cuda.synchronize()

    def wipe(self) -> None:
        self.words.fill_(-1)
        self.synchronize()

    def right(self, size: int, run: int) -> bool:
        """Whether every byte of a write that ended is where it belongs."""
        lanes, source, destination = order(size, run)
        there = pattern(size, self.words.device).view(lanes, len(source), run // 8)
        here = self.words[: size // 8].view_as(there)
        to, of = (torch.from_numpy(each).to(there.device) for each in (destination, source))
        return torch.equal(here[:, to], there[:, of])


def pattern(size: int, device) -> torch.Tensor:
    return torch.arange(size // 8, dtype=torch.int64, device=device).mul_(2654435761)


def order(size: int, run: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Lanes, and the pages of each at the source and at the destination in the order in which they are moved."""
    lanes = max(1, min(64, size // run))
    random = np.random.default_rng(size + run)
    pages = size // run // lanes
    return lanes, random.permutation(pages), random.permutation(pages)


def slots(lanes: int, pages: np.ndarray) -> np.ndarray:
    return (np.arange(lanes)[:, None] * len(pages) + pages[None, :]).ravel()


class Nixl:
    def __init__(self, memory: Memory):
        from nixl_cu13._api import nixl_agent, nixl_agent_config

        self._kind = "DRAM" if memory.gpu is None else "VRAM"
        self._memory, self._device = memory, memory.gpu or 0
        self._agent = nixl_agent(f"side-{os.getpid()}", nixl_agent_config(enable_prog_thread=True, backends=["UCX"]))
        self._agent.register_memory([(memory.base, memory.size, self._device, "")], self._kind)

    def address(self) -> dict:
        metadata = self._agent.get_agent_metadata().hex()
        return {"metadata": metadata, "base": self._memory.base, "device": self._device, "kind": self._kind}

    def connect(self, address: dict) -> None:
        peer = self._agent.add_remote_agent(bytes.fromhex(address["metadata"]))
        self._peer = peer.decode() if isinstance(peer, bytes) else peer
        self._agent.make_connection(self._peer)
        self._there = address

    def prepare(self, run: int, source: np.ndarray, destination: np.ndarray):
        def prepared(agent: str, base: int, device: int, kind: str):
            starts = np.uint64(base) + np.arange(len(source), dtype=np.uint64) * np.uint64(run)
            table = np.stack([starts, np.full_like(starts, run), np.full_like(starts, device)], 1)
            return self._agent.prep_xfer_dlist(agent, table, kind)

        here = prepared("", self._memory.base, self._device, self._kind)
        there = prepared(self._peer, self._there["base"], self._there["device"], self._there["kind"])
        indices = source.astype(np.int32), destination.astype(np.int32)
        return self._agent.make_prepped_xfer("WRITE", here, indices[0], there, indices[1])

    def write(self, prepared) -> None:
        state = self._agent.transfer(prepared)
        while state == "PROC":
            state = self._agent.check_xfer_state(prepared)
        if state != "DONE":
            raise RuntimeError(f"The transfer ended in the state {state}.")


class Mooncake:
    def __init__(self, memory: Memory):
        from mooncake.engine import TransferEngine

        self._memory = memory
        self._engine = TransferEngine()
        expect_zero("initialize", self._engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", ""))
        expect_zero("register_memory", self._engine.register_memory(memory.base, memory.size))

    def address(self) -> dict:
        return {"session": f"127.0.0.1:{self._engine.get_rpc_port()}", "base": self._memory.base}

    def connect(self, address: dict) -> None:
        self._there = address

    def prepare(self, run: int, source: np.ndarray, destination: np.ndarray):
        here = (source * run + self._memory.base).tolist()
        there = (destination * run + self._there["base"]).tolist()
        return here, there, [run] * len(here)

    def write(self, prepared) -> None:
        result = self._engine.batch_transfer_sync_write(self._there["session"], *prepared)
        expect_zero("batch_transfer_sync_write", result)


def expect_zero(what: str, result: int) -> None:
    if result != 0:
        raise RuntimeError(f"{what} answered {result}.")


class Copy:
    """Its peer is memory of the same process."""

    def __init__(self, memory: Memory):
        self._source = memory

    def address(self) -> None:
        return None

    def connect(self, address: dict) -> None:
        self._destination = Memory(address["place"], self._source.size)
        if self._source.gpu is not None:
            torch.cuda.set_device(self._source.gpu)

    def prepare(self, run: int, source: np.ndarray, destination: np.ndarray):
        return self._destination.words[: run // 8], self._source.words[: run // 8]

    def write(self, prepared) -> None:
        destination, source = prepared
        destination.copy_(source, non_blocking=True)
        if self._source.gpu is not None:
            ended = torch.cuda.Event()
            ended.record()
            while not ended.query():
                pass


class Side:
    def __init__(self, engine: str, place: str, size: int):
        self._memory = Memory(place, size)
        self._engine = {"nixl": Nixl, "mooncake": Mooncake, "copy": Copy}[engine](self._memory)
        self._prepared: dict = {}

    def address(self):
        return self._engine.address()

    def connect(self, address):
        self._engine.connect(address)

    def wipe(self):
        self._memory.wipe()

    def right(self, size: int, run: int) -> bool:
        return self._memory.right(size, run)

    def measure(self, size: int, run: int, repetitions: int, seconds: float) -> dict:
        """The median of up to `repetitions` writes after one that warms up, at least one and no more than fit into `seconds`."""
        if (size, run) not in self._prepared:
            lanes, source, destination = order(size, run)
            self._prepared[size, run] = self._engine.prepare(run, slots(lanes, source), slots(lanes, destination))
        prepared = self._prepared[size, run]
        self._engine.write(prepared)
        took: list[float] = []
        began, cpu = time.perf_counter(), time.process_time()
        while len(took) < repetitions and (not took or time.perf_counter() - began < seconds):
            started = time.perf_counter()
            self._engine.write(prepared)
            took.append(time.perf_counter() - started)
        cores = (time.process_time() - cpu) / (time.perf_counter() - began)
        return {"speed": size / statistics.median(took) / 1e9, "cores": cores, "writes": len(took)}


def main() -> None:
    answers = os.fdopen(3, "w", buffering=1)

    def answer(work) -> None:
        try:
            print(json.dumps({"answer": work()}), file=answers)
        except BaseException as error:  # Of whatever kind: the reason is what the report shows.
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers)

    side = None

    def open_side():
        nonlocal side
        side = Side(sys.argv[1], sys.argv[2], int(sys.argv[3]))
        return side.address()

    answer(open_side)
    for line in sys.stdin:
        question = json.loads(line)
        answer(lambda: getattr(side, question.pop("do"))(**question))
    # Without the destructors of the libraries, which may wait for a peer that is gone.
    os._exit(0)


main()
