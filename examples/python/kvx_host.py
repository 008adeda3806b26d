"""kvx for a model in Python: a Node process beside this one moves the pages of its KV cache, this module speaks to it.

Python 3.9 or newer on Linux, and nothing but its standard library. docs/python-hosts.md tells how it is used. Names, options and
their meaning are those of `KVManager` in `@kvx/core`; whatever takes time returns a `concurrent.futures.Future`, which always
ends: with a value, or with a `KvxError`.
"""

from __future__ import annotations

import base64
import ctypes
import fcntl
import itertools
import json
import mmap
import os
import select
import socket
import subprocess
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any, Optional, Sequence, TypeVar

SIDE = Path(__file__).with_name("side.mjs")
NODE = os.environ.get("KVX_NODE", "node")
SILENT_SECONDS = 30  # a Node process that has given no sign of life for so long is killed

AnyLeg = TypeVar("AnyLeg", bound="_Leg")


class KvxError(Exception):
    """`code` is stable (docs/errors.md); `phase`, `peer` and `rank` say where and with whom, if that is known."""

    def __init__(
        self,
        code: str,
        message: str,
        phase: Optional[str] = None,
        peer: Optional[str] = None,
        rank: Optional[str] = None,
        retryable: bool = False,
    ):
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.phase = code, message, phase
        self.peer, self.rank, self.retryable = peer, rank, retryable


class HostMemory:
    """Zeroed memory that both processes map: `map` is its buffer here (`torch.frombuffer(memory.map, …)`)."""

    def __init__(self, size: int):
        self.fd = os.memfd_create("kvx-pool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self.map = mmap.mmap(self.fd, size)
        self.description = {"kind": "cpu", "bytes": size, "fd": self.fd}

    def __del__(self) -> None:
        os.close(self.fd)


class CudaMemory:
    """`size` bytes of GPU memory at `address` of this process, on the device of that number (`tensor.data_ptr()`, `device.index`): part
    of what `cudaMalloc` gave, as torch's default allocator uses it. The Node process must see the same devices in the same order."""

    def __init__(self, address: int, size: int, device: int):
        context, number = ctypes.c_void_p(), ctypes.c_int()
        base, whole, handle = ctypes.c_uint64(), ctypes.c_size_t(), (ctypes.c_ubyte * 64)()
        _cuda("cuInit", 2000, 0)
        _cuda("cuDeviceGet", 2000, ctypes.byref(number), device)
        _cuda("cuDevicePrimaryCtxRetain", 7000, ctypes.byref(context), number)
        try:
            _cuda("cuCtxPushCurrent", 4000, context)
            try:
                start = ctypes.c_uint64(address)
                _cuda("cuMemGetAddressRange", 3020, ctypes.byref(base), ctypes.byref(whole), start)
                _cuda("cuIpcGetMemHandle", 4010, handle, start)
                if address + size > base.value + whole.value:
                    raise _not_shared(f"its allocation ends after {base.value + whole.value - address} of {size} bytes")
            finally:
                _cuda("cuCtxPopCurrent", 4000, ctypes.byref(ctypes.c_void_p()))
        finally:
            _cuda("cuDevicePrimaryCtxRelease", 11000, number)
        self.description = {
            **{"kind": "cuda", "device": device, "address": str(address), "bytes": size},
            **{"handle": base64.b64encode(bytes(handle)).decode(), "offset": address - base.value},
        }


def _cuda(name: str, version: int, *arguments: Any) -> None:
    """Calls a function of CUDA's driver, of the version of its ABI that the arguments have."""
    try:
        find = ctypes.CDLL(os.environ.get("KVX_CUDA_LIBRARY") or "libcuda.so.1").cuGetProcAddress_v2
    except (OSError, AttributeError) as error:
        raise KvxError("ERR_KVX_MEMORY", f"There is no driver of CUDA 12 or newer here: {error}.", "open") from error
    found, status = ctypes.c_void_p(), ctypes.c_int()
    result = find(name.encode(), ctypes.byref(found), version, ctypes.c_uint64(0), ctypes.byref(status))
    if result == 0 and not found.value:
        result = 500  # CUDA_ERROR_NOT_FOUND
    if result == 0:
        result = ctypes.CFUNCTYPE(ctypes.c_int)(found.value)(*arguments)
    if result == 0:
        return
    why = f"{name} fails with error {result}"
    if name == "cuIpcGetMemHandle":
        why += ", because only memory of cudaMalloc can be shared, not that of cudaMallocAsync or of expandable segments"
    raise _not_shared(why)


def _not_shared(why: str) -> KvxError:
    return KvxError("ERR_KVX_MEMORY", f"The GPU memory cannot be given to another process: {why}.", "open")


class Manager:
    """One rank. `with` closes it."""

    def __init__(self, role: str, *, memory: Sequence[Any], node: str, **options: Any):
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._pid = os.getpid()
        self._sending = threading.Lock()  # a line is written whole; held without the other lock
        self._lock = threading.Lock()  # guards what follows
        self._numbers = itertools.count(1)
        self._pending: dict[int, tuple[Future, Optional[_Leg]]] = {}
        self._legs: dict[int, _Leg] = {}
        self._ended: Optional[KvxError] = None
        self._memory = memory  # must live as long as the other process may use it
        described = [part.description for part in memory]
        files = [part["fd"] for part in described if "fd" in part]
        try:
            # Its own session: Ctrl-C is for this process, which ends the other. Its output must not mix with ours.
            self._process = subprocess.Popen(
                [node, str(SIDE), str(theirs.fileno())],
                pass_fds=[theirs.fileno(), *files],
                stdin=subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise KvxError(
                "ERR_KVX_BACKEND_UNAVAILABLE", f"Node cannot be started as '{node}': {error}.", "open"
            ) from error
        finally:
            theirs.close()
        threading.Thread(target=self._listen, name="kvx", daemon=True).start()
        try:
            opened = self._call("open", options={"role": role, "memory": described, **options}).result()
        except BaseException:
            self._end_process()
            raise
        self.bootstrap: Optional[str] = opened.get("bootstrap")
        self.engine: dict[str, str] = opened["engine"]
        self.incarnation: str = opened["incarnation"]

    def drain(self, deadline_ms: int) -> Future:
        """Takes no new requests, and ends when the running ones have."""
        return self._call("drain", deadlineMs=deadline_ms)

    def close(self, timeout: float = 30) -> None:
        """Aborts what is live and ends the Node process. After `timeout` seconds that is killed. Idempotent."""
        try:
            self._call("close").result(timeout)
        except (KvxError, FutureTimeout):
            pass  # it has ended already, or does now
        self._end_process()

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_leg(self, leg: AnyLeg, call: str, room: int, ids: Sequence[int], request: dict) -> AnyLeg:
        leg._number = next(self._numbers)
        with self._lock:
            self._legs[leg._number] = leg
        try:
            self._call(call, leg, room=str(room), ids=list(ids), request=request).result()
        except BaseException:
            leg.abort()  # an interrupted wait may have left it open
            with self._lock:
                self._legs.pop(leg._number, None)
            raise
        return leg

    def _call(self, call: str, leg: Optional[_Leg] = None, **rest: Any) -> Future:
        if os.getpid() != self._pid:
            message = "This is a fork of the process that opened the manager: open one here, or call there."
            raise KvxError("ERR_KVX_INVALID_STATE", message)
        number, future = next(self._numbers), _running()
        message = {"id": number, "call": call, **rest}
        if leg is not None:
            message["leg"] = leg._number
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            over = self._ended or (leg._over if leg is not None else None)
            if over is None:
                self._pending[number] = (future, leg)
        if over is not None:
            future.set_exception(over)
            return future
        try:
            with self._sending:
                self._socket.sendall(line)  # blocks no longer than SILENT_SECONDS: then the other end is killed
        except OSError:
            pass  # it has gone, and `_listen` fails what is pending
        return future

    def _listen(self) -> None:
        """On a thread of its own, until the other process has ended."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        rest, heard = b"", time.monotonic()
        try:
            while True:
                if not poll.poll(1000):
                    if self._process.poll() is not None:
                        return  # it has ended, and somebody else holds its end of the socket
                    if time.monotonic() - heard > SILENT_SECONDS:
                        self._process.kill()
                    continue
                data = self._socket.recv(1 << 16)
                if not data:
                    return
                heard = time.monotonic()
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._hear(json.loads(line))
        except OSError:
            pass  # the other end has gone, with something of ours unread
        finally:
            self._end()

    def _hear(self, message: dict) -> None:
        error = KvxError(**message["error"]) if "error" in message else None
        if "id" in message:
            with self._lock:
                future, leg = self._pending.pop(message["id"])
                if error is not None and leg is not None and leg._over is not None:
                    error = leg._over
            _settle(future, message.get("value"), error)
            return
        with self._lock:
            leg = self._legs.get(message.get("leg"))
        if leg is None:
            return  # a sign of life, or of a leg whose opening was interrupted
        if message["promise"] == "done":
            _settle(leg.done, _received(message.get("value")), error)
            return
        with self._lock:
            del self._legs[leg._number]
            leg._over = KvxError(**message["failure"]) if "failure" in message else _request_over()
        _settle(leg.settled, None, None)

    def _end(self) -> None:
        """The other process has closed its end: fails all that waits for it."""
        status = self._end_process()
        with self._sending:
            self._socket.close()
        error = KvxError(
            "ERR_KVX_CLOSED",
            f"The Node process beside this one has ended (status {status}). Pages of requests that had not settled must not "
            "be used again: open another manager over other memory.",
            retryable=True,
        )
        with self._lock:
            self._ended = error
            waiting = [future for future, _ in self._pending.values()]
            waiting += [future for leg in self._legs.values() for future in leg._promises()]
            self._pending.clear()
            self._legs.clear()
        for future in waiting:
            _settle(future, None, error)

    def _end_process(self) -> int:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # it leaves when it sees that
        except OSError:
            pass
        try:
            return self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class _Leg:
    """What both sides of a request have."""

    def __init__(self, manager: Manager):
        self._manager = manager
        self._number = 0
        self._over: Optional[KvxError] = None  # what every later call fails with
        self.settled: Future = _running()

    def abort(self, reason: Optional[str] = None) -> None:
        """Ends the request on both sides, if it has not ended."""
        self._call("abort", reason=reason)

    def _call(self, call: str, **given: Any) -> Future:
        return self._manager._call(call, self, given=_without_none(given))

    def _promises(self) -> list[Future]:
        return [self.settled]


class Sender(_Leg):
    """`settled`: nothing reads the source pages any more."""

    def reserved(self) -> Future:
        """Decode has given its pages: `{"prefixTokens": …, "firstTokens": {component: …}}`."""
        return self._call("reserved")

    def ready(self) -> Future:
        return self._call("ready")

    def queued(self) -> Future:
        return self._call("queued")

    def started(self) -> Future:
        return self._call("started")

    def write(self, tokens: Optional[tuple[int, int]] = None, pages: Any = None, state: Any = None, layers: Any = None) -> Future:
        """Sends the pages that are complete with these tokens. What computes them must be over when this is called: synchronize
        the stream first. Ends when the engine has taken it; the pages must stay as they are until `settled`."""
        return self._call("write", tokens=tokens, pages=pages, state=state, layers=layers)

    def finish(self, aux: Optional[dict] = None, state: Any = None) -> Future:
        """After the last write: ends with the report when decode has acknowledged everything. `aux`: `firstToken`, `logprob`,
        `cachedTokens`, `blob` (bytes)."""
        aux = dict(aux or {})
        if "blob" in aux:
            aux["blob"] = base64.b64encode(aux["blob"]).decode()
        return self._call("finish", aux=aux, state=state)


class Receiver(_Leg):
    """`done`: all has arrived, `{"aux": …, "report": …}`. `settled`: no byte can land any more, so that the pages may be used for
    others."""

    def __init__(self, manager: Manager):
        super().__init__(manager)
        self.done: Future = _running()

    def reserve(self, pages: Any = None, prefixTokens: Optional[int] = None, state: Any = None) -> Future:
        """Tells prefill where to write. Ends when it has answered. Without pages: `wanted`, then `provide`."""
        return self._call("reserve", pages=pages, prefixTokens=prefixTokens, state=state)

    def wanted(self) -> Future:
        return self._call("wanted")

    def provide(self, pages: Any = None, state: Any = None) -> Future:
        return self._call("provide", pages=pages, state=state)

    def _promises(self) -> list[Future]:
        return [self.done, self.settled]


class Prefill(Manager):
    """Sends. Either `bootstrap` (the address of a service that runs elsewhere) or `serve` (`{"host": …, "port": …}`, to run it in
    this manager's Node process; its address is then `bootstrap`)."""

    def __init__(self, *, memory: Sequence[Any], node: str = NODE, **options: Any):
        super().__init__("prefill", memory=memory, node=node, **options)

    def send(self, room: int, ids: Sequence[int], **request: Any) -> Sender:
        """The sending leg of a request for the prompt `ids`."""
        return self._open_leg(Sender(self), "send", room, ids, request)


class Decode(Manager):
    """Receives."""

    def __init__(self, *, memory: Sequence[Any], node: str = NODE, **options: Any):
        super().__init__("decode", memory=memory, node=node, **options)

    def receive(self, room: int, ids: Sequence[int], source: str, **request: Any) -> Receiver:
        """The receiving leg of a request. `source`: the bootstrap service of its prefill instance."""
        return self._open_leg(Receiver(self), "receive", room, ids, {**request, "from": source})


def _running() -> Future:
    """One that cannot be cancelled: `abort` ends a request, a timeout of `result` ends a wait."""
    future: Future = Future()
    future.set_running_or_notify_cancel()
    return future


def _settle(future: Future, value: Any, error: Optional[KvxError]) -> None:
    if error is None:
        future.set_result(value)
    elif not future.done():
        future.set_exception(error)


def _request_over() -> KvxError:
    return KvxError("ERR_KVX_INVALID_STATE", "The request is over.")


def _received(value: Optional[dict]) -> Optional[dict]:
    if value is not None and "blob" in value["aux"]:
        value["aux"]["blob"] = base64.b64decode(value["aux"]["blob"])
    return value


def _without_none(given: dict) -> dict:
    return {name: value for name, value in given.items() if value is not None}
