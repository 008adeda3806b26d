/** One side of a measured transfer: an engine, and one region of memory. */
import { randomBytes } from 'node:crypto'
import { silentLog, type Memory, type PeerAddress, type TransferEngine } from '@kvx/contract'
import { loadBackend } from '@kvx/core/backend'
import { allocate } from '@kvx/native'

/** `cpu`, or the ordinal of a GPU. */
export type Where = 'cpu' | number

export interface SideOfTransfer {
  readonly backend: string
  readonly from: string
  readonly backendOptions: Readonly<Record<string, string | number | boolean>>
  readonly where: Where
  readonly bytes: number
  /** What every byte is at first. */
  readonly fill: number
}

export interface OpenSide {
  readonly engine: TransferEngine
  readonly address: PeerAddress
  close(): Promise<void>
}

/** @throws KvxError what the backend throws, `ERR_KVX_MEMORY` */
export async function openSide(options: SideOfTransfer): Promise<OpenSide> {
  const { where, bytes, fill } = options
  const backend = await loadBackend(options.backend, { from: options.from })
  const generation = randomBytes(16).toString('hex')
  const engine = await backend.open(options.backendOptions, { generation, log: silentLog })
  let free: () => unknown = () => undefined
  const close = async (): Promise<void> => {
    await engine.close()
    await free()
  }
  try {
    const memory: Memory =
      where === 'cpu' ? allocate(bytes) : await allocate(bytes, { kind: 'cuda', device: where })
    free = () => (memory as Memory & { free(): unknown }).free()
    await fillAll(memory, fill)
    const { descriptor } = await engine.register(memory)
    return {
      engine,
      address: { generation, address: engine.address, regions: [descriptor] },
      close,
    }
  } catch (cause) {
    await close().catch(() => undefined)
    throw cause
  }
}

/** With other bytes in every piece, so that two that are exchanged are noticed. */
async function fillAll(memory: Memory, fill: number): Promise<void> {
  const piece = 1 << 26
  const words = new Uint32Array(Math.min(piece, Math.ceil(memory.bytes / 4) * 4) / 4)
  for (let at = 0; at < memory.bytes; at += piece) {
    for (let i = 0; i < words.length; i++) words[i] = Math.imul(at / 4 + i + 1, 0x9e3779b1) ^ fill
    const bytes = new Uint8Array(words.buffer, 0, Math.min(piece, memory.bytes - at))
    if (memory.view) memory.view(at, bytes.length).set(bytes)
    else await (memory as Memory & { write: Write }).write(at, bytes)
  }
}

type Write = (offset: number, bytes: Uint8Array) => Promise<void>
