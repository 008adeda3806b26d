"""examples/python/tiny.py with its cache on a GPU: that of a CUDA driver for tests (KVX_CUDA_LIBRARY), whose memory a process can read
as its own. python.test.ts runs it."""

import ctypes
import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "examples" / "python"))

import disaggregate  # noqa: E402
import kvx_host as kvx  # noqa: E402
import tiny  # noqa: E402


class Model(tiny.Model):
    def _pool(self, device, size):
        if device == "cpu":
            return super()._pool(device, size)
        ordinal = int(device.removeprefix("cuda:"))
        context, number, address = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_uint64()
        kvx._cuda("cuInit", 2000, 0)
        kvx._cuda("cuDeviceGet", 2000, ctypes.byref(number), ordinal)
        kvx._cuda("cuDevicePrimaryCtxRetain", 7000, ctypes.byref(context), number)
        kvx._cuda("cuCtxPushCurrent", 4000, context)
        # A pool that begins within its allocation, as those of PyTorch do.
        kvx._cuda("cuMemAlloc", 3020, ctypes.byref(address), ctypes.c_size_t(size + 512))
        kvx._cuda("cuCtxPopCurrent", 4000, ctypes.byref(context))
        view = ctypes.pythonapi.PyMemoryView_FromMemory
        view.restype, view.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
        writable = 0x200
        at = address.value + 512
        return [kvx.CudaMemory(at, size, ordinal)], view(at, size, writable)


def job(**given):
    return dataclasses.replace(tiny.job(**given), make=Model)


if __name__ == "__main__":
    disaggregate.main(job, devices="cuda:0,cuda:1")
