/** GPUs for tests, two of them: memory files behind a CUDA driver that has no GPU (packages/native/test/fake-cuda). */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { PeerAddress, TransferPlan } from '@kvx/contract'
import { fakeCuda } from '../../native/test/fake-cuda.ts'

/** This process and those that it starts have the two GPUs. Before anything asks for them. */
export function useFakeGpus(): void {
  process.env.KVX_CUDA_LIBRARY = fakeCuda
}

/** What goes wrong from now on in this process, as fake.h says. */
export function faults(text = ''): void {
  process.env.KVX_FAKE_CUDA_FAULTS = text
}

/** The bytes under an address of this process. */
export function peek(address: bigint, bytes: number): Buffer {
  const memory = openSync('/proc/self/mem', 'r')
  try {
    const found = Buffer.alloc(bytes)
    readSync(memory, found, 0, bytes, address)
    return found
  } finally {
    closeSync(memory)
  }
}

export function poke(address: bigint, bytes: Uint8Array): void {
  const memory = openSync('/proc/self/mem', 'r+')
  try {
    writeSync(memory, bytes, 0, bytes.length, Number(address))
  } finally {
    closeSync(memory)
  }
}

export const wire = (peer: PeerAddress) => ({
  generation: peer.generation,
  address: Buffer.from(peer.address).toString('base64'),
  regions: peer.regions.map((region) => Buffer.from(region).toString('base64')),
})

interface Answer {
  readonly answer?: unknown
  readonly code?: string
  readonly message?: string
}

/** An engine in a process of its own, which does what it is asked (children/gpu.mjs). */
export async function forkEngine(memories: readonly object[], env: Record<string, string> = {}) {
  const script = fileURLToPath(new URL('./children/gpu.mjs', import.meta.url))
  const child = fork(script, [JSON.stringify(memories)], { env: { ...process.env, ...env } })
  const exited = once(child, 'exit')
  const next = async (): Promise<Answer> => {
    const [message] = (await Promise.race([
      once(child, 'message'),
      exited.then(([code, signal]) => {
        throw new Error(`The child ended (code ${String(code)}, signal ${String(signal)}).`)
      }),
    ])) as [Answer]
    return message
  }
  const ask = async (action: string, fields: object = {}): Promise<Answer> => {
    const answered = next()
    child.send({ do: action, ...fields })
    return answered
  }
  return {
    child,
    started: await next(),
    ask,
    /** What it answers, which must be no error. */
    async get<T>(action: string, fields: object = {}): Promise<T> {
      const { answer, code, message } = await ask(action, fields)
      if (code !== undefined) throw new Error(`${action}: ${code}: ${String(message)}`)
      return answer as T
    },
    async kill(): Promise<void> {
      child.kill('SIGKILL')
      await exited
    },
  }
}

export type ForkedEngine = Awaited<ReturnType<typeof forkEngine>>

/** The whole of region 0 to region 0. */
export const wholeOf = (bytes: number): TransferPlan => ({
  lanes: Float64Array.of(0, 0, 0, 0, bytes, bytes, bytes, 1, bytes, bytes),
  groups: Int32Array.of(0, 0, 1),
  blocks: Int32Array.of(0, 1, 0, 1),
})
