/**
 * Engines with one defect each, and the suite, or the check of it, that must notice. Most are the text of examples/engine-typescript
 * with a piece of it replaced; the others change @kvx/shm, which can do more.
 */
export interface BrokenEngine {
  /** What it does wrong. */
  readonly name: string
  readonly caughtBy: string
  /** A module of this folder; or texts that stand in the example once, and what stands there instead. */
  readonly does: string | readonly (readonly [text: string, instead: string])[]
}

const broken = (
  caughtBy: string,
  name: string,
  ...does: readonly (readonly [text: string, instead: string])[]
): BrokenEngine => ({ name, caughtBy, does })

const copies = 'kvx.eachCopy(plan, (source'
const before = 'class Files'
const writes = 'bytes += writeSync(file, memory.view!(from, length), 0, length, to)'
const done = 'return { bytes, segments: pieces.length }'
const noAfter = "if (after) throw error('ERR_KVX_INVALID_OPTION', \"it does not keep 'after'\")"

export const brokenEngines: readonly BrokenEngine[] = [
  broken('manifest', 'its capabilities can be changed', [
    'readonly capabilities = Object.freeze({',
    'readonly capabilities = ({',
  ]),
  broken('manifest', 'takes an option that does not exist', [
    "if (reason !== undefined) throw error('ERR_KVX_INVALID_OPTION', reason)",
    '',
  ]),
  broken(
    'manifest: the identity names the backend, its version, and the generation given',
    'calls itself by another generation than the one given',
    ["version: '1', generation })", "version: '1', generation: '0'.repeat(32) })"],
  ),
  broken('probe', 'probe throws', [
    'return { available: false, tried:',
    'throw new Error(reason)\n    return { available: false, tried:',
  ]),
  broken('probe', 'probe leaves a descriptor behind', [
    'async probe(options) {',
    "async probe(options) {\n    openSync('/dev/null', 'r')",
  ]),
  broken('lifecycle', 'can be closed once only', [
    'this.#end.abort()',
    "if (this.#closing) throw error('ERR_KVX_CLOSED', 'it was closed')\n    this.#end.abort()",
  ]),
  broken(
    'lifecycle',
    'link.close resolves while transfers are under way',
    ['for (const stop of live.keys()) stop.abort(why)', ''],
    ['await queue', ''],
    ['for (const file of files) closeSync(file)', ''],
  ),
  broken('closed state', 'goes on when it was closed', [
    "if (this.#closing) throw error('ERR_KVX_CLOSED', 'the engine is closed')",
    '',
  ]),
  broken('closed state', 'a write to a closed link goes on', ['if (ended) throw ended', '']),
  broken('memory', 'uses a region after it was deregistered', [
    'this.#regions[id] = undefined',
    '',
  ]),
  broken('memory', 'deregisters a region while it is read', [
    'await Promise.all(reading',
    'void Promise.all(reading',
  ]),
  broken('memory', 'registers memory of zero bytes', ['bytes > 0 &&', 'bytes >= 0 &&']),
  broken('connect', 'takes what was meant for the engine before it', [
    "if (to !== this.identity.generation) throw new Error('another engine listens there now')",
    '',
  ]),
  broken('connect', 'waits for a silent peer for ever', ['AbortSignal.timeout(timeoutMs), ', '']),
  broken('plans', 'the last byte of every run is wrong', [
    writes,
    `const copy = Buffer.from(memory.view!(from, length))
      copy[length - 1]! ^= 1
      bytes += writeSync(file, copy, 0, length, to)`,
  ]),
  broken(
    'plans',
    'swaps the destinations of two lanes',
    [copies, 'kvx.eachCopy(swapped(plan), (source'],
    [
      before,
      `function swapped(plan: kvx.TransferPlan): kvx.TransferPlan {
  const lanes = Float64Array.from(plan.lanes)
  if (lanes.length >= 20) [lanes[3], lanes[13]] = [lanes[13]!, lanes[3]!]
  return { ...plan, lanes }
}

class Files`,
    ],
  ),
  broken(
    'plans',
    'applies the lanes of a block to all groups',
    [copies, 'kvx.eachCopy(toAllGroups(plan), (source'],
    [
      before,
      `function toAllGroups(plan: kvx.TransferPlan): kvx.TransferPlan {
  const blocks = Int32Array.from(plan.blocks)
  for (let i = 0; i < blocks.length; i += 4) [blocks[i], blocks[i + 1]] = [0, plan.groups.length / 3]
  return { ...plan, blocks }
}

class Files`,
    ],
  ),
  broken('plans', 'numbers the regions of the target as they were registered', [
    'const link = linkTo(socket, this.#regions, targets)',
    'const link = linkTo(socket, this.#regions, targets.sort((a, b) => a.id - b.id))',
  ]),
  broken('plans', 'reports pieces as bytes', [
    done,
    'return { bytes: pieces.length, segments: pieces.length }',
  ]),
  broken('plans', 'leaves the thousandth piece out', [
    'signal.throwIfAborted()',
    'signal.throwIfAborted()\n      if (segment === 999) { bytes += length; continue }',
  ]),
  broken('bounds', 'writes outside of the region of the target', [
    ' && isInside(to + bytes, targets[target])',
    ' && targets[target]',
  ]),
  broken('bounds', 'writes pieces before it has checked all of the plan', [
    'reads.add(source)',
    'reads.add(source)\n        writeSync(files[target]!, sources[source]!.view!(from, bytes), 0, bytes, to)',
  ]),
  broken(
    'visibility',
    'done resolves before the bytes are there',
    [
      'const turn = queue.then(',
      'const late = queue.then(() => new Promise((next) => setImmediate(next))).then(',
    ],
    ['queue = turn.catch(ignore)', 'queue = late.catch(ignore)'],
    [
      'return turn',
      'return { bytes: pieces.reduce((sum, piece) => sum + piece[4], 0), segments: pieces.length }',
    ],
  ),
  broken(
    'concurrency',
    'drops the completion of every eighth transfer',
    [done, 'if (++completions % 8 === 0) await new Promise(() => undefined)\n    ' + done],
    ['const ignore =', 'let completions = 0\nconst ignore ='],
  ),
  broken('cancel', 'ignores cancel', [
    "stop.abort(error('ERR_KVX_ABORTED', `the transfer was cancelled: ${String(reason)}`))",
    'void reason',
  ]),
  broken('cancel', 'does not say why it was cancelled', [
    'was cancelled: ${String(reason)}',
    'was cancelled',
  ]),
  broken('deadline', 'ignores the deadline', [
    'setTimeout(() => stop.abort(late), deadlineMs)',
    'setTimeout(() => void late, deadlineMs)',
  ]),
  broken('deadline', 'tells a deadline that has passed by another code', [
    "error('ERR_KVX_TRANSFER_TIMEOUT'",
    "error('ERR_KVX_TRANSFER_FAILED'",
  ]),
  broken('after', "takes 'after', which it does not declare", [noAfter, '']),
  broken(
    'after',
    "declares 'after', and ignores it",
    [noAfter, ''],
    ['maxSegmentBytes: 0,', 'after: true, maxSegmentBytes: 0,'],
  ),
  broken(
    'settled',
    'settles as soon as a transfer has failed',
    ['signal.throwIfAborted()', ''],
    ['work.then(forget, forget)', 'done.then(forget, forget)'],
  ),
  broken('settled', 'writes the bytes a second time after the end', [
    done,
    `setTimeout(() => pieces.forEach(([file, to, memory, from, length]) => { try { writeSync(file, memory.view!(from, length), 0, length, to) } catch {} }), 50)
    ${done}`,
  ]),
  broken('settled', 'settled rejects when the transfer has failed', [
    'work.then(forget, forget)',
    'work.then(forget)',
  ]),
  broken('settled', 'a done that nobody awaits is an unhandled rejection', [
    'done.catch(ignore)',
    'void done',
  ]),
  broken('fence', 'its fence resolves while the writer may go on', [
    "await Promise.all(sockets.map(([socket]) => once(socket.end(), 'close', { signal: signal! })))",
    'void sockets',
  ]),
  broken(
    'fence: a generation that never connected is barred at once, and for good',
    'lets a generation connect that is barred',
    ['if (this.#barred.has(from)) throw new Error(`generation ${from} is barred there`)', ''],
  ),
  broken(
    'slow peer: connects to a peer that is stopped hold up no connect to another',
    'connects one after the other',
    [
      'socket.write(encode(',
      `const turn = globalThis as { last?: Promise<unknown> }
      const earlier = turn.last
      turn.last = Promise.race([once(socket, 'data'), once(socket, 'close')])
      await earlier
      socket.write(encode(`,
    ],
  ),
  broken('digest', 'its digests are zeros', [
    'return kvx.digests(job, this.#regions)',
    'return kvx.digests(job, this.#regions).fill(0)',
  ]),
  broken('leaks: a link, a thousand times', 'leaves the files of a link open', [
    'for (const file of files) closeSync(file)',
    '',
  ]),
  broken(
    'leaks: a region, a thousand times',
    'keeps something of every region',
    ['const id = this', 'kept.push(Buffer.alloc(1 << 16, 1))\n    const id = this'],
    ['const ignore =', 'const kept: Buffer[] = []\nconst ignore ='],
  ),
  broken('teardown', 'a signal ends the process when it exits', [
    before,
    "process.on('exit', () => process.kill(process.pid, 'SIGABRT'))\n\nclass Files",
  ]),
  broken(
    'teardown: closed: a process that ends because nothing is left to do',
    'keeps the process alive when it was closed',
    ['this.#end.abort()', 'setInterval(() => undefined, 1000)\n    this.#end.abort()'],
  ),
  { caughtBy: 'peer loss', name: 'tells nobody of a peer that is gone', does: 'tells-nobody.mjs' },
  {
    caughtBy: 'peer loss',
    name: 'says that a peer is gone when a link to it is closed',
    does: 'tells-of-living.mjs',
  },
  {
    caughtBy: 'staging',
    name: 'scatters nothing of what was staged',
    does: 'scatters-nothing.mjs',
  },
]
