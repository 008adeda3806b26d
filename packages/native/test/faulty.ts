import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { silentLog, type TransferEngine } from '@kvx/contract'
import { allocate, openNativeEngine, type AllocatedMemory, type EngineBinding } from '@kvx/native'
import { lane, planOf } from './plans.ts'

interface Faulty extends EngineBinding {
  /** What the engine did against the driver's thread rules, and how the drivers are. */
  world(): { broken: string[]; drivers: number; submits: number; blocked: number; polls: number }
  /** What the driver was told last to wait for. */
  lastWait(): { kind: number; handle: bigint }
  /** This process cannot start a thread any more. */
  forbidThreads(): void
  reset(): void
  /** Lets transfers that were pending or failed end. */
  finish(): void
  /** Lets calls return that do not heed cancellation. */
  unstick(): void
  /** `fenced(generation)` answers true from now on. */
  kill(generation: string): void
}

const folder = new URL('./faulty/', import.meta.url)

/** The misbehaving driver (test/faulty/faulty.cc), which global-setup.ts has built. */
export function loadFaulty(): Faulty {
  return createRequire(import.meta.url)(
    fileURLToPath(new URL('build/Release/faulty.node', folder)),
  ) as Faulty
}

/** Runs test/children/ends.mjs. */
export async function child(
  what: 'stuck' | 'noThreads',
): Promise<{ code: number | null; output: string[] }> {
  const file = fileURLToPath(new URL('./children/ends.mjs', import.meta.url))
  const started = spawn(process.execPath, [file, what], { stdio: ['ignore', 'pipe', 'inherit'] })
  const [output, [code]] = await Promise.all([
    text(started.stdout),
    once(started, 'exit') as Promise<[number | null]>,
  ])
  return { code, output: output.trim().split('\n') }
}

export const newGeneration = (): string => randomBytes(16).toString('hex')

export const open = (
  binding: EngineBinding,
  options: Record<string, boolean | number | string> = {},
): Promise<TransferEngine> =>
  openNativeEngine(binding, {
    backend: 'faulty',
    options,
    context: { generation: newGeneration(), log: silentLog },
  })

/** A writer engine with a registered region, and links to peers that live in the same process. */
export async function pair(
  binding: EngineBinding,
  options: Record<string, boolean | number | string> = {},
) {
  const [source, destination]: AllocatedMemory[] = [allocate(4096), allocate(4096)]
  if (source === undefined || destination === undefined) throw new Error('unreachable')
  source.view(0, 4096).set(randomBytes(4096))
  const writer = await open(binding, options)
  const owner = await open(binding)
  const sourceRegion = await writer.register(source)
  const region = await owner.register(destination)
  const connect = (generation = owner.identity.generation) =>
    writer.connect({ generation, address: owner.address, regions: [region.descriptor] })
  const close = async (): Promise<void> => {
    await Promise.all([writer.close(), owner.close()])
    source.free()
    destination.free()
  }
  return { source, destination, writer, owner, sourceRegion, region, connect, close }
}

/** Copies the whole 4096 bytes as 256 pages, in reverse order so that nothing merges. */
export const reversed = planOf(
  [lane()],
  Array.from({ length: 256 }, (_, i) => [i, 255 - i, 1] as [number, number, number]),
)
