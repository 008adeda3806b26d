import { networkInterfaces } from 'node:os'
import { KvxError } from '@kvx/core/backend'
import * as v from 'valibot'

export interface MoriOptions {
  /** Queue pairs over which one transfer is spread, 1 to 64. Default 4. */
  readonly qpPerTransfer?: number | undefined
  /** Work requests given to the device at once: 1 or more, or -1 to let MORI choose. Default -1. */
  readonly postBatchSize?: number | undefined
  /** Threads that post one transfer, 1 to 64. More than `qpPerTransfer` are of no use. Default 1. */
  readonly numWorkers?: number | undefined
  /** Names of the RDMA devices to use (`ibv_devices`). Default: every device with an active port. */
  readonly devices?: readonly string[] | undefined
  /** IPv4 address on which peers reach MORI's control port. Default: the first that is not loopback. */
  readonly host?: string | undefined
  /** `libmori_io.so`, or a folder that holds it. Default: what was installed with kvx, then Python's. */
  readonly libraryPath?: string | undefined
}

/** What an option became after the environment and the defaults were looked at. */
export interface CheckedOptions {
  readonly qpPerTransfer: number
  readonly postBatchSize: number
  readonly numWorkers: number
  readonly devices: readonly string[] | undefined
  readonly host: string
  readonly libraryPath: string | undefined
}

const wholeNumber = v.pipe(v.number('must be a number'), v.integer('must be a whole number'))
const few = v.pipe(
  wholeNumber,
  v.minValue(1, 'must be at least 1'),
  v.maxValue(64, 'must be at most 64'),
)
const text = v.pipe(v.string('must be a text'), v.nonEmpty('must not be empty'))
const name = v.pipe(text, v.regex(/^[^,^\s]+$/, 'must be names without commas or blanks'))

const schema = v.strictObject({
  qpPerTransfer: v.optional(few),
  postBatchSize: v.optional(
    v.pipe(
      wholeNumber,
      v.check((n) => n === -1 || (n >= 1 && n <= 8192), 'must be -1 or 1 to 8192'),
    ),
  ),
  numWorkers: v.optional(few),
  devices: v.optional(
    v.pipe(v.array(name, 'must be a list'), v.minLength(1, 'must name a device')),
  ),
  host: v.optional(
    v.pipe(text, v.ipv4('must be a numeric IPv4 address: MORI knows no names and no IPv6')),
  ),
  libraryPath: v.optional(text),
})

type Name = keyof typeof schema.entries

/** Each option's variables; the later ones are understood for those who come from SGLang. */
const variables: Record<Name, readonly string[]> = {
  qpPerTransfer: ['KVX_MORI_QP_PER_TRANSFER', 'SGLANG_MORI_QP_PER_TRANSFER'],
  postBatchSize: ['KVX_MORI_POST_BATCH_SIZE', 'SGLANG_MORI_POST_BATCH_SIZE'],
  numWorkers: ['KVX_MORI_NUM_WORKERS', 'SGLANG_MORI_NUM_WORKERS'],
  devices: ['KVX_MORI_DEVICES'],
  host: ['KVX_MORI_HOST'],
  libraryPath: ['KVX_MORI_LIBRARY'],
}

/**
 * Option, then KVX_ variable, then alias, then default.
 *
 * @throws KvxError `ERR_KVX_INVALID_OPTION`, which names the option or variable
 */
export function checkOptions(
  options: unknown,
  env: NodeJS.ProcessEnv = process.env,
): CheckedOptions {
  const given = check(options ?? {}, (option) => `The option '${option}' of the backend 'mori'`)
  const found: Record<string, unknown> = {}
  const from: Record<string, string> = {}
  for (const option of Object.keys(variables) as Name[]) {
    const variable = variables[option].find((candidate) => (env[candidate] ?? '') !== '')
    if (variable === undefined) continue
    from[option] = variable
    found[option] = parse(option, env[variable] ?? '')
  }
  const environment = check(found, (option) => `The variable ${from[option] ?? option}`)
  return {
    qpPerTransfer: given.qpPerTransfer ?? environment.qpPerTransfer ?? 4,
    postBatchSize: given.postBatchSize ?? environment.postBatchSize ?? -1,
    numWorkers: given.numWorkers ?? environment.numWorkers ?? 1,
    devices: given.devices ?? environment.devices,
    host: given.host ?? environment.host ?? defaultHost(env),
    libraryPath: given.libraryPath ?? environment.libraryPath,
  }
}

function parse(option: Name, value: string): unknown {
  if (option === 'devices') return value.split(',')
  if (option === 'host' || option === 'libraryPath') return value
  return Number(value)
}

function check(
  options: unknown,
  subject: (option: string) => string,
): v.InferOutput<typeof schema> {
  const result = v.safeParse(schema, options)
  if (result.success) return result.output
  const [issue] = result.issues
  const option = v.getDotPath(issue)?.split('.')[0]
  if (option === undefined) throw invalid(`The options of the backend 'mori' must be an object.`)
  if (!Object.hasOwn(schema.entries, option)) {
    const known = Object.keys(schema.entries).join(', ')
    throw invalid(`The backend 'mori' has no option '${option}'. It has: ${known}.`)
  }
  throw invalid(`${subject(option)} ${issue.message}.`)
}

function invalid(message: string): KvxError {
  return new KvxError('ERR_KVX_INVALID_OPTION', message, { phase: 'open' })
}

function defaultHost(env: NodeJS.ProcessEnv): string {
  if (env.KVX_MORI_VERBS === 'fake') return '127.0.0.1' // it reaches no other machine
  const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? [])
  return (
    addresses.find(({ family, internal }) => family === 'IPv4' && !internal)?.address ?? '127.0.0.1'
  )
}
