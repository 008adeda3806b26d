// The Node process beside a model in Python. kvx_host.py starts it, and the two speak over a socket, a line of JSON at a time:
//
//   → { id, call: 'open', options }          ← { id, value } or { id, error }
//   → { id, call: 'send', leg, room, … }     ← { id, … }, and later { leg, promise: 'settled', … }
//   → { id, call: 'write', leg, given }      ← { id, … }
//                                            ← {} every second, as a sign of life
//
// It ends when its parent does, and its parent knows when it has ended.
import { closeSync } from 'node:fs'
import { Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { BootstrapServer, KVManager, KvxError, promptDigest, toKvxError } from '@kvx/core'
import { adopt, adoptGpu } from '@kvx/native'

const log = {
  debug: () => undefined,
  info: () => undefined,
  warn: (fields, message) => console.error(JSON.stringify({ level: 'warn', message, ...fields })),
  error: (fields, message) => console.error(JSON.stringify({ level: 'error', message, ...fields })),
}

/** What can be called on a leg; each takes what is `given` and answers what its promise resolves with. */
const sending = {
  reserved: (leg) => leg.reserved(),
  ready: (leg) => leg.ready(),
  queued: (leg) => leg.queued(),
  started: (leg) => leg.started(),
  write: (leg, chunk) => leg.write(chunk),
  finish: (leg, { aux, ...last }) => leg.finish({ ...last, aux: fromText(aux) }),
  abort: (leg, { reason }) => leg.abort(reason),
}
const receiving = {
  reserve: (leg, destination) => leg.reserve(destination),
  wanted: (leg) => leg.wanted,
  provide: (leg, destination) => leg.provide(destination),
  abort: (leg, { reason }) => leg.abort(reason),
}

/** Opened by the first call, closed by the last. */
let bootstrap, manager
/** By the number that Python gave it, until it has settled. */
const legs = new Map()

const calls = {
  async open({ options: { serve, memory, ...options } }) {
    if (serve !== undefined) {
      bootstrap = await BootstrapServer.open({ ...serve, token: options.token, log })
    }
    const address = options.bootstrap ?? bootstrap?.address
    manager = await KVManager.open({
      ...options,
      ...(address === undefined ? {} : { bootstrap: address }),
      memory: await Promise.all(memory.map((part) => memoryOf(part, options))),
      from: import.meta.url,
      log,
    })
    for (const { fd } of memory) if (fd !== undefined) closeSync(fd) // `adopt` has its own
    return { bootstrap: address, engine: manager.engine, incarnation: manager.incarnation }
  },
  send({ leg, room, ids, request }) {
    const sender = manager.send(BigInt(room), identified(ids, request))
    legs.set(leg, { on: sender, can: sending })
    void tell(leg, {}, sender)
  },
  receive({ leg, room, ids, request }) {
    const receiver = manager.receive(BigInt(room), identified(ids, request))
    legs.set(leg, { on: receiver, can: receiving })
    const done = receiver.done.then(({ aux, report }) => ({ aux: toText(aux), report }))
    void tell(leg, { done }, receiver)
  },
  drain: ({ deadlineMs }) => manager.drain({ deadlineMs }),
  async close() {
    await manager?.close()
    await bootstrap?.close()
  },
}

/**
 * Of the kind `cpu`: a file that Python has mapped. `cuda`: what its driver gave a handle of. Decode only hands that on to those who
 * write, so that it needs no CUDA of its own, unless it computes digests.
 */
function memoryOf({ kind, bytes, fd, device, address, handle, offset }, { role, verifyKV }) {
  if (kind === 'cpu') return adopt(fd, bytes)
  const shared = { device, handle: Buffer.from(handle, 'base64'), offset, bytes }
  if (role === 'prefill' || verifyKV) return adoptGpu(shared)
  return { ...shared, kind, address: BigInt(address) }
}

function identified(ids, request) {
  return { ...request, tokens: ids.length, digest: promptDigest(ids) }
}
function toText({ blob, ...aux }) {
  return blob === undefined ? aux : { ...aux, blob: Buffer.from(blob).toString('base64') }
}
function fromText({ blob, ...aux } = {}) {
  return blob === undefined ? aux : { ...aux, blob: Buffer.from(blob, 'base64') }
}

/** Says how the promises of a leg end, and at last that it has settled, with the error that it has ended with. */
async function tell(leg, promises, on) {
  await Promise.all(
    Object.entries(promises).map(([promise, value]) => answer({ leg, promise }, value)),
  )
  await on.settled
  legs.delete(leg)
  say({ leg, promise: 'settled', failure: on.error && described(on.error) })
}

/** Sends `head` with what `value` resolves with, or with its error. */
async function answer(head, value) {
  try {
    say({ ...head, value: await value })
  } catch (error) {
    say({ ...head, error: described(error) })
  }
}

function described(error) {
  const { code, message, phase, peer, rank, retryable } = toKvxError(error)
  return { code, message, phase, peer, rank, retryable }
}

function say(message) {
  if (!python.destroyed) python.write(`${JSON.stringify(message)}\n`)
}

async function perform({ call, leg, given = {}, ...rest }) {
  const own = calls[call]
  if (own !== undefined) return own({ leg, ...rest })
  const known = legs.get(leg)
  if (known !== undefined) return known.can[call](known.on, given)
  if (call !== 'abort') throw new KvxError('ERR_KVX_INVALID_STATE', 'The request is over.')
}

const python = new Socket({ fd: Number(process.argv[2]), readable: true, writable: true })
python.on('error', leave) // what cannot be written any more has nobody who would read it
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, leave)
// A child that Python has forked holds its end of the socket open, so that an end alone would not be seen.
const parent = process.ppid
const watch = setInterval(() => (process.ppid === parent ? say({}) : leave()), 1000)

const lines = createInterface({ input: python })
lines.on('error', leave).on('close', leave)
lines.on('line', (line) => {
  const { id, ...message } = JSON.parse(line)
  void answer({ id }, perform(message))
})

/** Ends this process: in order when that goes quickly, which it does after `close`. */
function leave() {
  clearInterval(watch)
  setTimeout(() => process.exit(1), 5000).unref()
  void calls.close().finally(() => process.exit())
}
