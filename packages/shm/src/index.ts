/**
 * The backend `shm`: KV-cache transfer between processes of one host. The owner's pages are a memory file that the
 * writer maps; one copy, straight in.
 */
import { backendSymbol, contractVersion, KvxError, type Backend, type Probe } from '@kvx/contract'
import { loadAddon, openNativeEngine, type EngineBinding } from '@kvx/native'
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

function probe(): Probe {
  const what = 'the addon of @kvx/shm'
  let missing: string
  try {
    missing = binding().probe()
  } catch (error) {
    const reason = (error as Error).message
    return { available: false, tried: [{ what, reason }], remedy: reason }
  }
  if (missing === '') return { available: true, version: '1', tried: [] }
  return {
    available: false,
    tried: [{ what: 'pidfd_open', reason: missing }],
    remedy: 'Use Linux 5.3 or newer, and a container profile that allows pidfd_open.',
  }
}

const shm: Backend<ShmOptions> = {
  [backendSymbol]: contractVersion,
  name: 'shm',
  probe: () => Promise.resolve(probe()),
  open: async (options, context) =>
    openNativeEngine(binding(), { backend: 'shm', options: { ...checkOptions(options) }, context }),
}

export default shm
