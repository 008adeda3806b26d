/** The calls of a backend and of its engines, as the test asks for them. */
import {
  backendSymbol,
  isBackend,
  silentLog,
  type DigestJob,
  type Memory,
  type PeerAddress,
  type Probe,
  type Region,
  type Staging,
  type TransferEngine,
  type TransferPlan,
} from '@kvx/contract'
import { backend, init } from './host.ts'
import { memories } from './memory.ts'
import { Table } from './table.ts'
import { links } from './transfers.ts'

export const engines = new Table<TransferEngine>('engine')
const regions = new Table<Region>('region')
const stagings = new Table<Staging>('staging')
const goneBy = new WeakMap<TransferEngine, [generation: string, reason: string][]>()

/** When a call is given up: before it is made, or so many milliseconds later. */
export type AbortAfter = number | undefined

const signalOf = (abortAfterMs: AbortAfter): { signal?: AbortSignal } =>
  abortAfterMs === undefined
    ? {}
    : { signal: abortAfterMs === 0 ? AbortSignal.abort() : AbortSignal.timeout(abortAfterMs) }

function describe(engine: TransferEngine) {
  const { capabilities, identity, address } = engine
  return {
    ...{ capabilities, identity, address },
    frozen: Object.isFrozen(capabilities) && Object.isFrozen(capabilities.memoryKinds),
    tellsPeerGone: engine.onPeerGone !== undefined,
    stages: engine.openStaging !== undefined,
  }
}

const described = ({ id, bytes, descriptor, ...rest }: Region) => ({
  region: regions.add({ id, bytes, descriptor, ...rest }),
  ...{ id, bytes, descriptor },
})

export const engineCommands = {
  async load() {
    const { default: found } = (await import(init.module)) as { default?: unknown }
    const { name, [backendSymbol]: version } = (found ?? {}) as Record<PropertyKey, unknown>
    return { isBackend: isBackend(found), name: String(name), version: String(version) }
  },
  async probe(options: unknown = init.options): Promise<Probe> {
    return (await backend()).probe(options as Record<string, unknown>)
  },
  async open(generation: string, options: unknown = init.options) {
    const context = { generation, log: silentLog }
    const engine = await (await backend()).open(options as Record<string, unknown>, context)
    return { engine: engines.add(engine), ...describe(engine) }
  },
  async describe(engine: number) {
    return describe(engines.get(engine))
  },
  /** `change` makes of the memory what it is not. */
  async register(engine: number, memory: number, change: Partial<Memory> = {}) {
    const own = memories.get(memory)
    const given = Object.keys(change).length === 0 ? own : { ...own, ...change }
    const region = await engines.get(engine).register(given)
    // A class may have its methods on its prototype.
    return described({
      ...{ id: region.id, bytes: region.bytes, descriptor: region.descriptor },
      deregister: () => region.deregister(),
    })
  },
  async deregister(region: number): Promise<void> {
    await regions.get(region).deregister()
  },
  async connect(
    engine: number,
    peer: PeerAddress,
    options: { timeoutMs?: number; abortAfterMs?: number } = {},
  ): Promise<number> {
    const { abortAfterMs, ...rest } = options
    const link = await engines.get(engine).connect(peer, { ...rest, ...signalOf(abortAfterMs) })
    return links.add(link)
  },
  async fence(engine: number, generation: string, abortAfterMs?: number): Promise<void> {
    await engines.get(engine).fence(generation, signalOf(abortAfterMs))
  },
  async listen(engine: number): Promise<void> {
    const one = engines.get(engine)
    const told: [string, string][] = []
    goneBy.set(one, told)
    one.onPeerGone?.((generation, reason) => told.push([generation, reason]))
  },
  /** What the engine has told so far of peers that are gone. */
  async gone(engine: number): Promise<readonly (readonly [string, string])[]> {
    return goneBy.get(engines.get(engine)) ?? []
  },
  async closeEngine(engine: number): Promise<void> {
    await engines.get(engine).close()
  },
  async digest(engine: number, job: DigestJob, abortAfterMs?: number): Promise<Uint8Array> {
    return engines.get(engine).digest(job, signalOf(abortAfterMs))
  },
  async openStaging(engine: number, bytes: number) {
    const one = engines.get(engine)
    if (one.openStaging === undefined) throw new Error('This engine has no staging.')
    const staging = await one.openStaging(bytes)
    const { id, descriptor } = staging.region
    return { staging: stagings.add(staging), id, descriptor }
  },
  async gather(staging: number, plan: TransferPlan, offset: number): Promise<number> {
    return stagings.get(staging).gather(plan, offset)
  },
  async scatter(staging: number, plan: TransferPlan, offset: number): Promise<number> {
    return stagings.get(staging).scatter(plan, offset)
  },
}
