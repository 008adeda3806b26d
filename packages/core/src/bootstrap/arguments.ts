/** What each public call about a bootstrap service takes. */
import * as v from 'valibot'
import {
  callback,
  checked,
  endpoint,
  exactly,
  host,
  integer,
  logger,
  milliseconds,
  name,
  signal,
  such,
} from '../arguments.ts'
import { checkToken } from '../control/keys.ts'
import { wholeRank } from '../share/given.ts'
import { longestLeaseMs, longestWaitMs, shortestLeaseMs } from './messages.ts'

const record = exactly({
  instance: name,
  incarnation: such<string>(
    '32 lower-case hex digits',
    (value) => typeof value === 'string' && /^[0-9a-f]{32}$/.test(value),
  ),
  endpoint,
  rank: wholeRank,
  backend: name,
})

const token = v.unknown()
const source = { bootstrap: endpoint, token, instance: v.optional(name) }

/** One function for the options of each call, which say the name of the one that is wrong. */
const taking =
  (entries: v.ObjectEntries) =>
  (options: unknown): void => {
    const { token: given } = checked(exactly(entries), options, {
      name: '',
      code: 'ERR_KVX_INVALID_OPTION',
      phase: 'open',
    })
    checkToken(given)
  }

export const checkServer = taking({ host, port: integer(0, 65_535), token, log: logger })
export const checkRegister = taking({
  bootstrap: endpoint,
  token,
  record,
  leaseMs: v.optional(integer(shortestLeaseMs, longestLeaseMs)),
  timeoutMs: v.optional(milliseconds),
  signal: v.optional(signal),
  onLost: v.optional(callback),
  log: v.optional(logger),
})
export const checkWatch = taking({
  ...source,
  onRead: callback,
  onFailed: callback,
  onPublished: v.optional(callback),
  log: logger,
  waitMs: v.optional(integer(1, longestWaitMs)),
  silentMs: v.optional(milliseconds),
})
export const checkRead = taking({
  ...source,
  timeoutMs: milliseconds,
  signal: v.optional(signal),
})
