import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import { KvxError, silentLog, type Log } from '@kvx/contract'
import { loadBackend } from '../backend/load.ts'
import { registerRank } from '../bootstrap/index.ts'
import { ControlServer } from '../control/index.ts'
import { checkPlace, packPlace } from '../place/index.ts'
import { prefixBlock } from '../plan/index.ts'
import { checkShape, maxNameLength, packShape } from '../shape/index.ts'
import { divisionObjection, makeRank, rankCount, rankObjection, type Rank } from '../share/index.ts'
import {
  defaultDeadlines,
  defaultLimits,
  divide,
  fewestRuns,
  helloOf,
  settings,
  welcomeOf,
} from '../protocol/index.ts'
import { checkOpenOptions } from './arguments.ts'
import { DecodeManager } from './decode.ts'
import { Engine } from './engine.ts'
import { checkGreeting, maxUnsentBytes } from './messages.ts'
import { PrefillManager } from './prefill.ts'
import type {
  DecodeManager as DecodeManagerType,
  DecodeOptions,
  KVManager as KVManagerType,
  KVManagerOptions,
  PrefillManager as PrefillManagerType,
  PrefillOptions,
} from './types.ts'

/**
 * Opens the transfer layer of one rank: loads the backend, registers the memory, and, on the prefill
 * side, listens for decode and registers at the bootstrap.
 *
 * @throws KvxError `ERR_KVX_BACKEND_…`, `ERR_KVX_INVALID_OPTION`, `ERR_KVX_INVALID_ARGUMENT`,
 *   `ERR_KVX_MEMORY`, `ERR_KVX_BOOTSTRAP_UNREACHABLE`; nothing stays open then
 */
async function open<Options = Record<string, unknown>>(
  options: PrefillOptions<Options>,
): Promise<PrefillManagerType>
async function open<Options = Record<string, unknown>>(
  options: DecodeOptions<Options>,
): Promise<DecodeManagerType>
async function open<Options = Record<string, unknown>>(
  options: KVManagerOptions<Options>,
): Promise<KVManagerType>
async function open(options: KVManagerOptions): Promise<KVManagerType> {
  checkOpenOptions(options)
  const { shape, place, memory } = options
  const log = options.log ?? silentLog
  const deadlines = settings(defaultDeadlines, options.deadlines, 'deadline', options)
  const limits = settings(defaultLimits, options.limits, 'limit', options)
  checkTogether(options)
  checkShape(shape)
  const rank = checkedRank(options)
  checkPlace(
    shape,
    rank,
    place,
    memory.map(({ bytes }) => bytes),
  )
  const backend = await loadBackend(options.backend, { from: options.from ?? process.cwd() })
  const engine = await Engine.open({
    backend,
    backendOptions: options.backendOptions ?? {},
    memory,
    staging: divide(limits.stagingBytes),
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
  const { shape, place } = options
  const { identity, capabilities } = engine.current.engine
  const incarnation = randomBytes(16).toString('hex')
  const instance =
    options.instance ??
    `${options.role}-${hostname()}-${String(process.pid)}-${incarnation.slice(0, 6)}`.slice(
      -maxNameLength,
    )
  const self = {
    incarnation,
    instance,
    rank,
    backend: identity.backend,
    version: identity.version,
    shape,
    place,
    packed: { shape: packShape(shape), place: packPlace(place) },
    fence: capabilities.fence,
    deadlines,
    limits,
  }
  const staging = engine.current.staging && divide(limits.stagingBytes)
  /** As long as any that there will be. */
  const most = { to: incarnation, epoch: Number.MAX_SAFE_INTEGER, fences: Number.MAX_SAFE_INTEGER }
  const unsent = maxUnsentBytes(options.role, limits, place)
  if (options.role === 'decode') {
    const session = randomBytes(16).toString('hex')
    const decode = {
      ...self,
      staging,
      session,
      prefixBlock: prefixBlock(shape, rank, place),
      verify: options.verifyKV ?? false,
    }
    checkGreeting(helloOf(decode, engine.current.address, most), place)
    return new DecodeManager({
      self: decode,
      engine,
      maxUnsentBytes: unsent,
      token: options.token,
      log,
    })
  }
  const { generation } = engine.current.address
  const shortRun = capabilities.minEfficientRun
  const prefill = {
    ...self,
    staging: staging && { ...staging, shortRun, fewestRuns, region: options.memory.length },
  }
  checkGreeting(welcomeOf(prefill, { to: incarnation, gen: generation, writer: generation }), place)
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
    bootstrap: options.bootstrap,
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
  const given = options as Partial<Record<keyof typeof onlyOf, unknown>>
  for (const name of Object.keys(onlyOf) as (keyof typeof onlyOf)[]) {
    if (given[name] === undefined || options.role === onlyOf[name]) continue
    throw invalid(`There is no '${name}' for ${options.role}: it is an option of ${onlyOf[name]}.`)
  }
  if (options.role === 'prefill' && given.bootstrap === undefined) {
    throw invalid(
      "A prefill manager needs 'bootstrap': the address tcp://host:port of the bootstrap service of its instance.",
    )
  }
  if (
    options.role === 'decode' &&
    options.verifyKV &&
    options.memory.some(({ kind }) => kind === 'hip')
  ) {
    throw invalid(
      "'verifyKV' needs memory of the kinds cpu and cuda: hip memory cannot be digested here.",
    )
  }
}

/** @throws KvxError `ERR_KVX_INVALID_OPTION` */
function checkedRank({ shape, rank: given, instance }: KVManagerOptions): Rank {
  const rank = makeRank(shape.layers, given)
  const wrong = rankObjection(rank) ?? divisionObjection(shape, rank, 'this rank')
  const invalid = (text: string) =>
    new KvxError('ERR_KVX_INVALID_OPTION', `The option 'rank' is not valid: ${text}.`, {
      phase: 'open',
    })
  if (wrong !== undefined) throw invalid(wrong)
  if (rank.cpSize > 1 && given?.context === undefined) {
    throw invalid(
      "with cpSize above 1 'context' must say which tokens a rank holds: 'all', 'contiguous' or { interleave: tokens }",
    )
  }
  if (rankCount(rank) > 1 && instance === undefined) {
    throw invalid("an instance of several ranks needs a name, the same for all: 'instance'")
  }
  return rank
}

export type KVManager = KVManagerType
/** Opens managers: `KVManager.open(options)`. */
export const KVManager = {
  /** Makes a manager of the `role` that the options name. */
  open,
}
