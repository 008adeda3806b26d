import { networkInterfaces } from 'node:os'
import { KvxError } from '@kvx/core/backend'
import * as v from 'valibot'
import { flavours, type Flavour } from './wheel.ts'

export interface MooncakeOptions {
  /** How bytes travel. Default `tcp`. */
  readonly protocol?: 'tcp' | 'rdma' | undefined
  /** Names of the RDMA devices to use (`ibv_devices`). Default: all. Only with `rdma`. */
  readonly devices?: readonly string[] | undefined
  /** Host name or IPv4 address by which peers reach this machine. Default: the first address that is not loopback. */
  readonly hostname?: string | undefined
  /** `P2PHANDSHAKE`, the default: peers exchange what they need; or the http(s) address of a metadata server. */
  readonly metadataServer?: string | undefined
  /** `engine.so` of a wheel, `libtransfer_engine.so`, or a folder that holds one. Default: what was installed with kvx, then Python's. */
  readonly libraryPath?: string | undefined
  /** Which of the installed wheels. Default: the first that works, those for GPUs before the plain one. */
  readonly flavour?: Flavour | undefined
  /** Requests given to Mooncake at once, 1 to 1024. Default 512. */
  readonly maxBatchSegments?: number | undefined
  /** Larger pieces are split: bytes, 64 KiB to 1 GiB. Default 64 MiB. */
  readonly maxSegmentBytes?: number | undefined
}

export const peerToPeer = 'P2PHANDSHAKE'

/** What an option became after the environment and the defaults were looked at. */
export interface CheckedOptions {
  readonly protocol: 'tcp' | 'rdma'
  readonly devices: readonly string[] | undefined
  readonly hostname: string
  readonly metadataServer: string
  readonly libraryPath: string | undefined
  readonly flavour: Flavour | undefined
  readonly maxBatchSegments: number
  readonly maxSegmentBytes: number
}

const text = v.pipe(v.string('must be a text'), v.nonEmpty('must not be empty'))
const device = v.pipe(text, v.regex(/^[\w.-]+$/, 'must be names of devices'))
const whole = (least: number, most: number) =>
  v.pipe(
    v.number('must be a number'),
    v.integer('must be a whole number'),
    v.minValue(least, `must be at least ${String(least)}`),
    v.maxValue(most, `must be at most ${String(most)}`),
  )

const schema = v.strictObject({
  protocol: v.optional(v.picklist(['tcp', 'rdma'], "must be 'tcp' or 'rdma'")),
  devices: v.optional(
    v.pipe(v.array(device, 'must be a list'), v.minLength(1, 'must name a device')),
  ),
  hostname: v.optional(
    v.pipe(
      text,
      v.maxLength(253, 'is too long'),
      v.regex(
        /^[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?$/,
        'must be a host name or an IPv4 address, without a port',
      ),
      v.check(
        (host) => host !== '0.0.0.0',
        'must be an address that peers can connect to, not 0.0.0.0',
      ),
    ),
  ),
  metadataServer: v.optional(
    v.pipe(
      text,
      // Anything else ends the process: Mooncake aborts on unknown schemes, and etcd's client is left out.
      v.check(
        (value) => value === peerToPeer || isHttp(value),
        `must be ${peerToPeer} or an address that begins with http:// or https:// (etcd and redis are not supported)`,
      ),
    ),
  ),
  libraryPath: v.optional(text),
  flavour: v.optional(v.picklist(flavours, `must be one of ${flavours.join(', ')}`)),
  maxBatchSegments: v.optional(whole(1, 1024)),
  maxSegmentBytes: v.optional(whole(2 ** 16, 2 ** 30)),
})

type Name = keyof typeof schema.entries

const variables: Readonly<Record<Name, string>> = {
  protocol: 'KVX_MOONCAKE_PROTOCOL',
  devices: 'KVX_MOONCAKE_DEVICES',
  hostname: 'KVX_MOONCAKE_HOSTNAME',
  metadataServer: 'KVX_MOONCAKE_METADATA_SERVER',
  libraryPath: 'KVX_MOONCAKE_LIBRARY',
  flavour: 'KVX_MOONCAKE_FLAVOUR',
  maxBatchSegments: 'KVX_MOONCAKE_MAX_BATCH_SEGMENTS',
  maxSegmentBytes: 'KVX_MOONCAKE_MAX_SEGMENT_BYTES',
}

/**
 * Option, then variable, then default.
 *
 * @throws KvxError `ERR_KVX_INVALID_OPTION`, which names the option or variable
 */
export function checkOptions(
  options: unknown,
  env: NodeJS.ProcessEnv = process.env,
): CheckedOptions {
  checkEnvironment(env)
  const given = check(options ?? {}, (option) => `The option '${option}' of the backend 'mooncake'`)
  const found: Record<string, unknown> = {}
  for (const option of Object.keys(variables) as Name[]) {
    const value = env[variables[option]] ?? ''
    if (value !== '') found[option] = parse(option, value)
  }
  const environment = check(found, (option) => `The variable ${variables[option as Name]}`)
  const protocol = given.protocol ?? environment.protocol ?? 'tcp'
  const devices = given.devices ?? environment.devices
  if (devices !== undefined && protocol !== 'rdma') {
    throw invalid("The option 'devices' of the backend 'mooncake' needs protocol 'rdma'.")
  }
  return {
    protocol,
    devices,
    hostname: given.hostname ?? environment.hostname ?? defaultHostname(),
    metadataServer: given.metadataServer ?? environment.metadataServer ?? peerToPeer,
    libraryPath: given.libraryPath ?? environment.libraryPath,
    flavour: given.flavour ?? environment.flavour,
    maxBatchSegments: given.maxBatchSegments ?? environment.maxBatchSegments ?? 512,
    maxSegmentBytes: given.maxSegmentBytes ?? environment.maxSegmentBytes ?? 2 ** 26,
  }
}

/** Variables of Mooncake under which it would not keep what kvx promises. */
const forbidden: Readonly<Record<string, string>> = {
  MC_TCP_PROTO: 'makes Mooncake report a write as completed before the target has it',
  MC_USE_TENT: 'selects another engine, which kvx does not know',
  MC_USE_TEV1: 'selects another engine, which kvx does not know',
}

function checkEnvironment(env: NodeJS.ProcessEnv): void {
  for (const [variable, why] of Object.entries(forbidden)) {
    const value = env[variable] ?? ''
    if (value === '' || (variable !== 'MC_TCP_PROTO' && value === '0')) continue
    if (variable === 'MC_TCP_PROTO' && value !== '1') continue
    throw invalid(`The variable ${variable}=${value} ${why}. Unset it.`)
  }
}

/** Variables of Mooncake that kvx sets itself (native/library.cc says why). */
const settled: Readonly<Record<string, string>> = {
  MC_TCP_ENABLE_CONNECTION_POOL: '1',
  MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER: '1024',
  MC_TCP_STATUS_TIMEOUT_SEC: '100000000',
  MC_TCP_PROGRESS_TIMEOUT_SEC: '100000000',
}

/** Those that were something else. */
export function overridden(env: NodeJS.ProcessEnv = process.env): string[] {
  return Object.keys(settled).filter(
    (name) => env[name] !== undefined && env[name] !== settled[name],
  )
}

function parse(option: Name, value: string): unknown {
  if (option === 'devices') return value.split(',')
  if (option === 'maxBatchSegments' || option === 'maxSegmentBytes') return Number(value)
  return value
}

function check(
  options: unknown,
  subject: (option: string) => string,
): v.InferOutput<typeof schema> {
  const result = v.safeParse(schema, options)
  if (result.success) return result.output
  const [issue] = result.issues
  const option = v.getDotPath(issue)?.split('.')[0]
  if (option === undefined)
    throw invalid(`The options of the backend 'mooncake' must be an object.`)
  if (!Object.hasOwn(schema.entries, option)) {
    const known = Object.keys(schema.entries).join(', ')
    throw invalid(`The backend 'mooncake' has no option '${option}'. It has: ${known}.`)
  }
  throw invalid(`${subject(option)} ${issue.message}.`)
}

function isHttp(value: string): boolean {
  return URL.canParse(value) && /^https?:\/\/[^/]/.test(value)
}

function invalid(message: string): KvxError {
  return new KvxError('ERR_KVX_INVALID_OPTION', message, { phase: 'open' })
}

function defaultHostname(): string {
  const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? [])
  return (
    addresses.find(({ family, internal }) => family === 'IPv4' && !internal)?.address ?? '127.0.0.1'
  )
}
