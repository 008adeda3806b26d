/**
 * What the contract promises, in its own words, so that a failure can say which promise was broken. A test compares each
 * sentence with the docstrings of `@kvx/contract`.
 */
const table = {
  backend: [
    'Backend',
    'A backend package exports one `Backend` as its default export; nothing else of kvx needs to know it.',
  ],
  probe: [
    'Backend.probe',
    'Can it run here, and if not, why and what to do? Never throws, changes nothing.',
  ],
  tried: ['Probe.tried', 'Everything that was tried, in order, with the reason of each failure.'],
  remedy: ['Probe.remedy', 'What a person should do when it is not available.'],
  options: ['Backend.open', '`ERR_KVX_INVALID_OPTION` for an unknown or bad option'],
  generation: [
    'OpenContext.generation',
    '32 lower-case hex digits, fresh for every opened engine: its memory keys and addresses must not be taken for those of another.',
  ],
  anywhere: [
    'Backend.open',
    'A process may exit, and a worker thread may be terminated, whatever an engine is doing.',
  ],
  leavesNothing: [
    'TransferEngine',
    'What was closed or deregistered leaves no memory, no descriptor and no thread behind.',
  ],
  capabilities: ['TransferEngine.capabilities', 'Frozen; constant for the life of the engine.'],
  memoryKinds: [
    'Capabilities.memoryKinds',
    'Memory of any other kind is refused with `ERR_KVX_MEMORY`.',
  ],
  afterRefused: [
    'Capabilities.after',
    'Default false: who gives it is refused with `ERR_KVX_INVALID_OPTION`.',
  ],
  address: ['TransferEngine.address', "Opaque; the writer's `connect` takes it."],
  register: ['TransferEngine.register', '@throws KvxError `ERR_KVX_MEMORY`'],
  deregister: [
    'Region.deregister',
    'Writes from it are refused from the call on; resolves when no transfer reads it any more. Idempotent.',
  ],
  digest: [
    'TransferEngine.digest',
    'Digests of tensors in registered memory, 16 bytes each, that depend only on what the bytes mean and not on where they lie',
  ],
  digestRefused: [
    'TransferEngine.digest',
    '`ERR_KVX_PLAN_INVALID` for a job that is malformed or reaches outside of the regions',
  ],
  gather: [
    'Staging.gather',
    'Copies the source runs of a plan to `offset`. The destinations do not matter.',
  ],
  scatter: [
    'Staging.scatter',
    'Copies what lies at `offset` into the destinations of a plan, which are regions of this engine.',
  ],
  connect: [
    'TransferEngine.connect',
    'Writer side: prepares to write into the regions of a peer. Bounded by `options.timeoutMs`.',
  ],
  connectRefused: ['TransferEngine.connect', '`ERR_KVX_CONNECT_FAILED` with the reason'],
  connectAborted: ['TransferEngine.connect', '`ERR_KVX_ABORTED` by the signal'],
  fence: [
    'TransferEngine.fence',
    'Owner side, for fence kinds `peer` and `exit`: resolves once no byte of that peer can land any more.',
  ],
  barred: [
    'TransferEngine.fence',
    'A generation that never connected is barred for good, at once.',
  ],
  engineFence: [
    'TransferEngine.fence',
    'For kind `engine` it rejects with `ERR_KVX_INVALID_STATE`: there `close()` is the fence for everybody.',
  ],
  fenceAborted: ['TransferEngine.fence', '`ERR_KVX_ABORTED` by the signal'],
  peerGone: [
    'TransferEngine.onPeerGone',
    'is told that the engine of a generation that this one was connected with, as writer or as owner, has ended: its process has exited, or it was closed. That must be true: nobody waits for such a peer any more.',
  ],
  close: ['TransferEngine.close', 'Resolves when everything has settled. Idempotent.'],
  closed: ['TransferEngine.close', 'Every later call ends with `ERR_KVX_CLOSED`.'],
  write: [
    'Link.write',
    'Never throws; a `done` that nobody awaits is never an unhandled rejection.',
  ],
  refused: [
    'Link.write',
    'A plan that is malformed, or reaches outside of the regions, fails with `ERR_KVX_PLAN_INVALID` before its first byte moves.',
  ],
  independent: ['Link', 'A peer that is slow, stopped or gone holds up no transfer to another.'],
  linkClose: [
    'Link.close',
    'Cancels what is not posted; resolves when every transfer of the link has settled.',
  ],
  deadline: [
    'TransferOptions.deadlineMs',
    'Milliseconds until `done` rejects with `ERR_KVX_TRANSFER_TIMEOUT`.',
  ],
  after: ['TransferOptions.after', 'What a device must have done before the first byte is read.'],
  done: [
    'Transfer.done',
    "Acknowledged by the target's transport, or a `KvxError`. Always ends, by its deadline at the latest.",
  ],
  visible: ['Transfer.done', 'Once it resolves the process of the target sees every byte.'],
  settled: [
    'Transfer.settled',
    'No byte of it can land any more. May come long after `done` has rejected; never rejects.',
  ],
  cancel: ['Transfer.cancel', 'Stops what is not yet posted.'],
  report: ['TransferReport.bytes', 'How many bytes the plan moved.'],
  plan: [
    'TransferPlan',
    'For every block, lane of the block, group of the block, page p of the group and run k of the lane',
  ],
  nothingElse: ['TransferPlan', 'No other byte of the destination changes.'],
  regionNumbers: [
    'TransferPlan',
    'Region numbers are positions: of source regions in the order of `register`, of destination regions in the list given to `connect`.',
  ],
} as const

export type PromiseName = keyof typeof table

/** Where the contract says it, and what it says. */
export const promises: Readonly<Record<PromiseName, readonly [where: string, sentence: string]>> =
  table

/** A promise of the contract that an engine has not kept. */
export class BrokenPromise extends Error {
  override readonly name = 'BrokenPromise'
  readonly promise: PromiseName

  constructor(promise: PromiseName, what: string) {
    const [where, sentence] = promises[promise]
    super(`${what}\n\nThe contract says of ${where}: “${sentence}”`)
    this.promise = promise
  }
}

/** @throws BrokenPromise unless `kept`; `what` says what was found instead */
export function must(kept: boolean, promise: PromiseName, what: string): asserts kept {
  if (!kept) throw new BrokenPromise(promise, what)
}

/** @throws BrokenPromise when `work` has not ended after `ms` */
export async function within<T>(
  ms: number,
  work: Promise<T>,
  promise: PromiseName,
  what: string,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new BrokenPromise(promise, `${what} had not ended after ${ms} ms.`))
    }, ms)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}
