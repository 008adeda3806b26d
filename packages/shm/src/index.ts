/**
 * The backend `shm`: KV-cache transfer between processes of one host. The owner's pages are a memory file or memory of a GPU that
 * the writer maps; one copy, straight in.
 */
import {
  backendSymbol,
  contractVersion,
  KvxError,
  type Backend,
  type Device,
  type Probe,
} from '@kvx/contract'
import { gpus, loadAddon, openNativeEngine, type EngineBinding, type Gpu } from '@kvx/native'
import { checkOptions, type ShmOptions } from './options.ts'

export type { ShmOptions } from './options.ts'

interface Binding extends EngineBinding {
  /** What is missing on this machine; an empty text when nothing is. */
  probe(): string
}

function binding(): Binding {
  if (process.platform !== 'linux') {
    throw new KvxError(
      'ERR_KVX_BACKEND_UNAVAILABLE',
      `The backend 'shm' needs Linux (memory files, pidfds); this is ${process.platform}.`,
      { phase: 'open' },
    )
  }
  return loadAddon<Binding>(new URL('..', import.meta.url), '@kvx/shm')
}

async function probe(options?: ShmOptions): Promise<Probe> {
  try {
    checkOptions(options)
  } catch (error) {
    const reason = (error as Error).message
    return { available: false, tried: [{ what: 'the options', reason }], remedy: reason }
  }
  const what = 'the addon of @kvx/shm'
  let native: Binding
  let missing: string
  try {
    native = binding()
    missing = native.probe()
  } catch (error) {
    const reason = (error as Error).message
    return { available: false, tried: [{ what, reason }], remedy: reason }
  }
  if (missing !== '') {
    return {
      available: false,
      tried: [{ what: 'pidfd_open', reason: missing }],
      remedy: 'Use Linux 5.3 or newer, and a container profile that allows pidfd_open.',
    }
  }
  const { reason, cuda, list } = await gpus()
  return {
    available: true,
    version: '1',
    tried: [],
    devices: list.map(deviceOf),
    devicesNote:
      reason === undefined
        ? `CUDA ${String(Math.floor(cuda / 1000))}.${String(Math.floor((cuda % 1000) / 10))}`
        : `no memory of GPUs: ${reason}`,
  }
}

function deviceOf({ ordinal, uuid, name, computeCapability, ...gpu }: Gpu): Device {
  return {
    ...{ kind: 'cuda', ordinal, uuid, name },
    facts: `compute capability ${computeCapability}, ${String(gpu.multiprocessors)} multiprocessors`,
    reaches: gpu.reaches.flatMap((reaches, other) => (reaches && other !== ordinal ? [other] : [])),
    reason: gpu.mps
      ? 'it is used through MPS, whose server goes on when a process is killed: run without MPS'
      : undefined,
  }
}

/** The backend, for `KVManager.open({ backend: shm })`; its name is `shm`. */
const shm: Backend<ShmOptions> = {
  [backendSymbol]: contractVersion,
  name: 'shm',
  probe,
  open: async (options, context) =>
    openNativeEngine(binding(), {
      backend: 'shm',
      options: { ...checkOptions(options) },
      refusals: { cuda: 'this machine has no driver of CUDA', hip: 'AMD GPUs are not supported' },
      context,
    }),
}

export default shm
