import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import { KvxError, silentLog, type Log } from '@kvx/contract'
import { loadBackend } from '../backend/load.ts'
import { registerRank } from '../bootstrap/index.ts'
import { ControlServer } from '../control/index.ts'
import { checkPlaces, layoutFingerprint, maxNameLength } from '../layout/index.ts'
import {
  defaultDeadlines,
  defaultLimits,
  helloOf,
  makeRank,
  rankCount,
  rankObjection,
  settings,
  stageOf,
  welcomeOf,
  type Rank,
} from '../protocol/index.ts'
import { checkOpenOptions } from './arguments.ts'
import { DecodeManager } from './decode.ts'
import { Engine } from './engine.ts'
import { checkGreeting, maxUnsentBytes } from './messages.ts'
import { PrefillManager } from './prefill.ts'
import type { KVManager as KVManagerType, KVManagerOptions } from './types.ts'

/**
 * Opens the transfer layer of one rank: loads the backend, registers the memory, and, on the prefill
 * side, listens for decode and registers at the bootstrap.
 *
 * @throws KvxError `ERR_KVX_BACKEND_…`, `ERR_KVX_INVALID_OPTION`, `ERR_KVX_INVALID_ARGUMENT`,
 *   `ERR_KVX_MEMORY`, `ERR_KVX_BOOTSTRAP_UNREACHABLE`; nothing stays open then
 */
async function open(options: KVManagerOptions): Promise<KVManagerType> {
  checkOpenOptions(options)
  const { layout, memory } = options
  const log = options.log ?? silentLog
  const deadlines = settings(defaultDeadlines, options.deadlines, 'deadline', options)
  const limits = settings(defaultLimits, options.limits, 'limit', options)
  checkTogether(options)
  checkPlaces(
    layout,
    memory.map(({ bytes }) => bytes),
  )
  const rank = checkedRank(options)
  const backend = await loadBackend(options.backend, { from: options.from ?? process.cwd() })
  const engine = await Engine.open({
    backend,
    backendOptions: options.backendOptions ?? {},
    memory,
    log,
  })
  /** What is open already; an engine or a port that is left open would keep the host's process alive. */
  const opened: { close(): Promise<void> }[] = [engine]
  try {
    return await openOver(engine, { options, deadlines, limits, rank, log }, opened)
  } catch (error) {
    for (const part of opened.reverse()) await part.close().catch(() => undefined)
    throw error
  }
}

interface Checked {
  readonly options: KVManagerOptions
  readonly deadlines: typeof defaultDeadlines
  readonly limits: typeof defaultLimits
  readonly rank: Rank
  readonly log: Log
}

/** @param opened gets what has to be closed when this fails */
async function openOver(
  engine: Engine,
  { options, deadlines, limits, rank, log }: Checked,
  opened: { close(): Promise<void> }[],
): Promise<KVManagerType> {
  const { role, layout } = options
  const { identity, capabilities } = engine.current.engine
  const incarnation = randomBytes(16).toString('hex')
  const instance =
    options.instance ??
    `${role}-${hostname()}-${String(process.pid)}-${incarnation.slice(0, 6)}`.slice(-maxNameLength)
  const self = {
    incarnation,
    instance,
    rank,
    backend: identity.backend,
    version: identity.version,
    layout,
    fingerprint: layoutFingerprint(layout),
    fence: capabilities.fence,
    deadlines,
    limits,
  }
  /** As long as any that there will be. */
  const most = { to: incarnation, epoch: Number.MAX_SAFE_INTEGER, fences: Number.MAX_SAFE_INTEGER }
  const unsent = maxUnsentBytes(role, limits, layout)
  if (role === 'decode') {
    const session = randomBytes(16).toString('hex')
    const decode = { ...self, session, verify: options.verifyKV ?? false }
    checkGreeting(helloOf(decode, engine.current.address, most), layout)
    return new DecodeManager({
      self: decode,
      engine,
      maxUnsentBytes: unsent,
      token: options.token,
      log,
    })
  }
  const kvLayers = new Set(layout.tensors.filter((t) => t.component === 'kv').map((t) => t.layer))
  const prefill = { ...self, kvLayers: [...kvLayers].sort((a, b) => a - b) }
  const { generation } = engine.current.address
  checkGreeting(
    welcomeOf(prefill, { to: incarnation, gen: generation, writer: generation }),
    layout,
  )
  const manager = new PrefillManager({
    self: prefill,
    engine,
    log,
  })
  opened.push(manager)
  const { handlers } = manager
  const control = await ControlServer.bind({
    host: options.host ?? '127.0.0.1',
    port: 0,
    token: options.token,
    onMessage: (connection, message) => {
      handlers.onMessage(connection, message)
    },
    onMalformed: (connection, error) => {
      handlers.onMalformed(connection, error)
    },
    onClose: (connection) => {
      handlers.onClose(connection)
    },
    maxUnsentBytes: unsent,
    log,
  })
  opened.push(control)
  const registration = await registerRank({
    bootstrap: options.bootstrap ?? '',
    token: options.token,
    record: {
      instance,
      incarnation,
      endpoint: control.endpoint,
      rank,
      backend: self.backend,
    },
    onLost: (reason) => {
      log.error(
        { instance, reason: reason.message },
        'this rank was replaced at the bootstrap: decode goes to the new process. No new requests are taken here; end this process',
      )
      manager.replacedBy(reason)
    },
    log,
  })
  manager.serve(control, registration)
  return manager
}

/** Options that only one role has. Deadlines and limits: see their tables. */
const onlyOf = { host: 'prefill', bootstrap: 'prefill', verifyKV: 'decode' } as const

function checkTogether(options: KVManagerOptions): void {
  const invalid = (text: string) => new KvxError('ERR_KVX_INVALID_OPTION', text, { phase: 'open' })
  for (const name of Object.keys(onlyOf) as (keyof typeof onlyOf)[]) {
    if (options[name] === undefined || options.role === onlyOf[name]) continue
    throw invalid(`There is no '${name}' for ${options.role}: it is an option of ${onlyOf[name]}.`)
  }
  if (options.role === 'prefill' && options.bootstrap === undefined) {
    throw invalid(
      "A prefill manager needs 'bootstrap': the address tcp://host:port of the bootstrap service of its instance.",
    )
  }
  if (options.verifyKV && !options.memory.every(({ kind }) => kind === 'cpu')) {
    throw invalid(
      "'verifyKV' needs memory of the kind cpu: the pages of a device cannot be checked.",
    )
  }
}

/** @throws KvxError `ERR_KVX_INVALID_OPTION` */
function checkedRank({ layout, rank: given, instance }: KVManagerOptions): Rank {
  const rank = makeRank(layout.layers, given)
  const invalid = (text: string) =>
    new KvxError('ERR_KVX_INVALID_OPTION', `The option 'rank' is not valid: ${text}.`, {
      phase: 'open',
    })
  const wrong = rankObjection(rank)
  if (wrong !== undefined) throw invalid(wrong)
  if (rank.stages.at(-1) !== layout.layers) {
    throw invalid(`stages end at ${String(rank.stages.at(-1))} of ${String(layout.layers)} layers`)
  }
  const [first, end] = stageOf(rank)
  const outside = layout.tensors.find(({ layer }) => layer < first || layer >= end)
  if (outside) {
    throw invalid(
      `its pipeline stage holds layers ${String(first)} to ${String(end - 1)}, the layout has layer ${String(outside.layer)}`,
    )
  }
  if (rankCount(rank) > 1 && instance === undefined) {
    throw invalid("an instance of several ranks needs a name, the same for all: 'instance'")
  }
  return rank
}

export type KVManager = KVManagerType
export const KVManager = { open }
