import { devices, list, optionTable, ownAddress, text, whole, wholeThat } from '@kvx/vendor'
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

const schema = v.strictObject({
  qpPerTransfer: v.optional(whole(1, 64)),
  postBatchSize: v.optional(
    wholeThat((n) => n === -1 || (n >= 1 && n <= 8192), 'must be -1 or 1 to 8192'),
  ),
  numWorkers: v.optional(whole(1, 64)),
  devices: v.optional(devices(/^[^,^\s]+$/, 'must be names without commas or blanks')),
  host: v.optional(
    v.pipe(text, v.ipv4('must be a numeric IPv4 address: MORI knows no names and no IPv6')),
  ),
  libraryPath: v.optional(text),
})

/** The later variables of an option are understood for those who come from SGLang. */
const read = optionTable('mori', schema, {
  qpPerTransfer: {
    variables: ['KVX_MORI_QP_PER_TRANSFER', 'SGLANG_MORI_QP_PER_TRANSFER'],
    parse: Number,
  },
  postBatchSize: {
    variables: ['KVX_MORI_POST_BATCH_SIZE', 'SGLANG_MORI_POST_BATCH_SIZE'],
    parse: Number,
  },
  numWorkers: { variables: ['KVX_MORI_NUM_WORKERS', 'SGLANG_MORI_NUM_WORKERS'], parse: Number },
  devices: { variables: ['KVX_MORI_DEVICES'], parse: list },
  host: { variables: ['KVX_MORI_HOST'] },
  libraryPath: { variables: ['KVX_MORI_LIBRARY'] },
})

/**
 * Option, then KVX_ variable, then alias, then default.
 *
 * @throws KvxError `ERR_KVX_INVALID_OPTION`, which names the option or variable
 */
export function checkOptions(
  options: unknown,
  env: NodeJS.ProcessEnv = process.env,
): CheckedOptions {
  const chosen = read(options, env)
  return {
    qpPerTransfer: chosen.qpPerTransfer ?? 4,
    postBatchSize: chosen.postBatchSize ?? -1,
    numWorkers: chosen.numWorkers ?? 1,
    devices: chosen.devices,
    // Fake verbs reach no other machine.
    host: chosen.host ?? (env.KVX_MORI_VERBS === 'fake' ? '127.0.0.1' : ownAddress()),
    libraryPath: chosen.libraryPath,
  }
}
