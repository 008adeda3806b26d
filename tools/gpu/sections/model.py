"""What copies cost a model on the same GPU: `python3 model.py LIBRARY SECONDS`, where LIBRARY is beside.so of packages/native/test/gpu.

The model is two kernels of PyTorch, one of arithmetic and one of memory. Beside each, copies go on from this process on a stream of their own,
or from a second process (`--copies`, which has no PyTorch). Prints a line of JSON per measurement, and after SECONDS what it has not
come to. On the fake driver, which PyTorch cannot use, only the copies are measured.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from statistics import median

FAKE = "fakecuda" in os.environ.get("KVX_CUDA_LIBRARY", "")
POOL, CHUNK = (64 << 20, 4 << 20) if FAKE else (512 << 20, 64 << 20)
REPETITIONS, REPETITION_SECONDS = 3, 0.02 if FAKE else 0.3
ENGINE = 0  # instead of a number of multiprocessors
SMS = {
    "same GPU": (4, 8, 16, 32, ENGINE),
    "to host": (1, 2, 4, ENGINE),
    "from host": (1, 2, 4, ENGINE),
    "peer": (4, 8, 16, 32, 64, ENGINE),
}


class Copies:
    """Those of this process."""

    def __init__(self, library: str):
        self._library = ctypes.CDLL(library)
        for name in ("open", "start", "copied", "stop"):
            getattr(self._library, f"beside_{name}").restype = ctypes.c_char_p
        self._call("open", ctypes.c_uint64(POOL), ctypes.c_uint64(CHUNK))

    def start(self, path: str, sms: int) -> None:
        self._call("start", path.encode(), ctypes.c_uint(sms))

    def copied(self) -> tuple[float, int]:
        """Since start: the time, by a clock that all processes share, and the bytes."""
        copied = ctypes.c_uint64()
        self._call("copied", ctypes.byref(copied))
        return time.clock_gettime(time.CLOCK_MONOTONIC), copied.value

    def stop(self) -> None:
        self._call("stop")

    def _call(self, name: str, *given: object) -> None:
        failure = getattr(self._library, f"beside_{name}")(*given)
        if failure is not None:
            raise RuntimeError(f"{name}: {failure.decode()}")


class OtherCopies:
    """Those of a second process."""

    def __init__(self, library: str, seconds: int):
        self._process = subprocess.Popen(
            [sys.executable, __file__, library, str(seconds), "--copies"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def start(self, path: str, sms: int) -> None:
        self._ask("start", path, sms)

    def copied(self) -> tuple[float, int]:
        seconds, copied = self._ask("copied")
        return seconds, copied

    def stop(self) -> None:
        self._ask("stop")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, *words: object) -> object:
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> object:
        line = self._process.stdout.readline()
        if line == "":
            raise RuntimeError(f"the second process ended with status {self._process.wait()}")
        return json.loads(line)


def serve(library: str) -> None:
    copies = Copies(library)
    print("null", flush=True)
    for line in sys.stdin:
        name, *given = json.loads(line)
        print(json.dumps(getattr(copies, name)(*given)), flush=True)


class Kernel:
    """One of the model's, over and over on a stream of its own."""

    def __init__(self, torch, once, work: float):
        self._stream, self._once, self._work = torch.cuda.Stream(), once, work
        self._torch = torch

    def run(self, seconds: float) -> float:
        """Work per second."""
        with self._torch.cuda.stream(self._stream):
            self._stream.synchronize()
            began, times = time.monotonic(), 0
            while time.monotonic() - began < seconds:
                for _ in range(4):
                    self._once()
                # Of this stream alone: the context's would wait for the copies too.
                self._stream.synchronize()
                times += 4
            return times * self._work / (time.monotonic() - began)


def kernels() -> dict[str, Kernel]:
    import torch

    if not torch.cuda.is_available():
        raise ImportError("it finds no GPU")
    side, count = 8192, 256 << 20
    left, right = (torch.randn(side, side, device="cuda:0", dtype=torch.bfloat16) for _ in "ab")
    product = torch.empty_like(left)
    values = torch.randn(count, device="cuda:0", dtype=torch.bfloat16)
    sums = torch.empty_like(values)
    torch.cuda.synchronize()
    made = {
        "gemm": Kernel(torch, lambda: torch.mm(left, right, out=product), 2 * side**3),
        "memory": Kernel(torch, lambda: torch.add(values, 1, out=sums), 2 * count * 2),
    }
    for kernel in made.values():
        kernel.run(0.3)  # warms up: libraries are loaded, and clocks settle
    return made


def rate(before: tuple[float, int], after: tuple[float, int]) -> float:
    return (after[1] - before[1]) / (after[0] - before[0])


def measure(copies: Copies | OtherCopies, path: str, sms: int, model: dict, alone: dict) -> dict:
    copies.start(path, sms)
    while copies.copied()[1] < 4 * CHUNK:
        time.sleep(0.001)
    before = copies.copied()
    time.sleep(REPETITION_SECONDS)
    row = {"path": path, "sms": sms, "copyAlone": rate(before, copies.copied())}
    for name, kernel in model.items():
        speeds, rates = [], []
        for _ in range(REPETITIONS):
            before = copies.copied()
            speeds.append(kernel.run(REPETITION_SECONDS) / alone[name])
            rates.append(rate(before, copies.copied()))
        row[name] = {"ofAlone": median(speeds), "copy": median(rates)}
    copies.stop()
    return row


def main() -> None:
    library, seconds = sys.argv[1], int(sys.argv[2])
    end = time.monotonic() + seconds
    signal.alarm(seconds + 10)  # ends a process that hangs in the driver's functions, and its second one
    if sys.argv[3:] == ["--copies"]:
        return serve(library)
    try:
        model = {} if FAKE else kernels()
    except ImportError as error:
        sys.exit(f"There is no PyTorch to measure: {error}")
    other = OtherCopies(library, seconds)
    own = Copies(library)
    gpus = ctypes.CDLL(library).beside_gpus()
    paths = [path for path in SMS if path != "peer" or gpus > 1]
    left = [(by, path, sms) for by in ("same process", "other process") for path in paths for sms in SMS[path]]
    measured = None
    while left and time.monotonic() < end:
        by, path, sms = left.pop(0)
        if (by, path) != measured:
            measured = by, path
            # Again for each group: what the GPU's clocks allow changes as it grows warm.
            alone = {
                name: median(kernel.run(REPETITION_SECONDS) for _ in range(REPETITIONS))
                for name, kernel in model.items()
            }
            print(json.dumps({"by": by, "path": path, "alone": alone}), flush=True)
        row = measure(own if by == "same process" else other, path, sms, model, alone)
        print(json.dumps({"by": by, **row}), flush=True)
    print(json.dumps({"left": left}), flush=True)
    other.close()


main()
