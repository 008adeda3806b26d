import { devices, invalidOption, list, optionTable, ownAddress, text, whole } from '@kvx/vendor'
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

const schema = v.strictObject({
  protocol: v.optional(v.picklist(['tcp', 'rdma'], "must be 'tcp' or 'rdma'")),
  devices: v.optional(devices(/^[\w.-]+$/, 'must be names of devices')),
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

const read = optionTable('mooncake', schema, {
  protocol: { variables: ['KVX_MOONCAKE_PROTOCOL'] },
  devices: { variables: ['KVX_MOONCAKE_DEVICES'], parse: list },
  hostname: { variables: ['KVX_MOONCAKE_HOSTNAME'] },
  metadataServer: { variables: ['KVX_MOONCAKE_METADATA_SERVER'] },
  libraryPath: { variables: ['KVX_MOONCAKE_LIBRARY'] },
  flavour: { variables: ['KVX_MOONCAKE_FLAVOUR'] },
  maxBatchSegments: { variables: ['KVX_MOONCAKE_MAX_BATCH_SEGMENTS'], parse: Number },
  maxSegmentBytes: { variables: ['KVX_MOONCAKE_MAX_SEGMENT_BYTES'], parse: Number },
})

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
  const chosen = read(options, env)
  const protocol = chosen.protocol ?? 'tcp'
  if (chosen.devices !== undefined && protocol !== 'rdma') {
    throw invalidOption("The option 'devices' of the backend 'mooncake' needs protocol 'rdma'.")
  }
  return {
    protocol,
    devices: chosen.devices,
    hostname: chosen.hostname ?? ownAddress(),
    metadataServer: chosen.metadataServer ?? peerToPeer,
    libraryPath: chosen.libraryPath,
    flavour: chosen.flavour,
    maxBatchSegments: chosen.maxBatchSegments ?? 512,
    maxSegmentBytes: chosen.maxSegmentBytes ?? 2 ** 26,
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
    throw invalidOption(`The variable ${variable}=${value} ${why}. Unset it.`)
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

function isHttp(value: string): boolean {
  return URL.canParse(value) && /^https?:\/\/[^/]/.test(value)
}
