import { fork, spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { execPath } from 'node:process'
import { fileURLToPath } from 'node:url'
import { silentLog, type PeerAddress, type TransferEngine } from '@kvx/contract'
import { allocate } from '@kvx/native'
import shm, { type ShmOptions } from '@kvx/shm'

export const newGeneration = (): string => randomBytes(16).toString('hex')

export const open = (options: ShmOptions = {}): Promise<TransferEngine> =>
  shm.open(options, { generation: newGeneration(), log: silentLog })

/** A plan for `pages` pages of `pageBytes`: page i goes to page order[i]. */
export const scattered = (pageBytes: number, order: readonly number[]) => ({
  lanes: Float64Array.of(0, 0, 0, 0, pageBytes, pageBytes, pageBytes, 1, pageBytes, pageBytes),
  groups: Int32Array.from(order.flatMap((to, from) => [from, to, 1])),
  blocks: Int32Array.of(0, order.length, 0, 1),
})

/** A writer and an owner, with registered memory of `bytes` each; the source is random. */
export async function pair(bytes: number, options: ShmOptions = {}) {
  const source = allocate(bytes)
  const destination = allocate(bytes)
  source.view(0, bytes).set(randomBytes(bytes))
  const writer = await open(options)
  const owner = await open()
  await writer.register(source)
  const region = await owner.register(destination)
  const peer: PeerAddress = {
    generation: owner.identity.generation,
    address: owner.address,
    regions: [region.descriptor],
  }
  const close = async (): Promise<void> => {
    await Promise.all([writer.close(), owner.close()])
    source.free()
    destination.free()
  }
  return { source, destination, writer, owner, region, peer, close }
}

const child = (name: string): string =>
  fileURLToPath(new URL(`./children/${name}.mjs`, import.meta.url))

async function message(process: ChildProcess): Promise<Record<string, unknown>> {
  const [value] = (await Promise.race([
    once(process, 'message'),
    once(process, 'exit').then(([code, signal]) => {
      throw new Error(`The child ended (code ${String(code)}, signal ${String(signal)}).`)
    }),
  ])) as [Record<string, unknown>]
  return value
}

/** Memory of `bytes` that a process of its own holds, which can have so many files open. */
export async function forkOwner(bytes: number, descriptors = 4096) {
  // Node raises the soft limit, so that it must be set before Node starts.
  const process = spawn(
    'sh',
    ['-c', `ulimit -n ${String(descriptors)} && exec "$0" "$@"`, execPath].concat([
      child('owner'),
      newGeneration(),
      String(bytes),
    ]),
    { stdio: ['inherit', 'inherit', 'inherit', 'ipc'] },
  )
  const started = (await message(process)).answer as {
    generation: string
    address: string
    regions: string[]
  }
  const peer: PeerAddress = {
    generation: started.generation,
    address: Buffer.from(started.address, 'base64'),
    regions: started.regions.map((region) => Buffer.from(region, 'base64')),
  }
  return {
    process,
    peer,
    async ask(action: string, fields: object = {}): Promise<unknown> {
      process.send({ do: action, ...fields })
      return (await message(process)).answer
    },
    async kill(): Promise<void> {
      const exited = once(process, 'exit')
      process.kill('SIGKILL')
      await exited
    },
  }
}

/** A process that writes into `peer` without end. */
export async function forkWriter(
  peer: PeerAddress,
  { bytes, fill = 1, user }: { bytes: number; fill?: number; user?: number },
) {
  const generation = newGeneration()
  const start = {
    generation,
    bytes,
    fill,
    user,
    peer: {
      generation: peer.generation,
      address: Buffer.from(peer.address).toString('base64'),
      regions: peer.regions.map((region) => Buffer.from(region).toString('base64')),
    },
  }
  const process = fork(child('writer'), [JSON.stringify(start)])
  const first = await message(process)
  return {
    process,
    generation,
    first,
    next: () => message(process),
    async kill(): Promise<void> {
      const exited = once(process, 'exit')
      process.kill('SIGKILL')
      await exited
    },
  }
}
