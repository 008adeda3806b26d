/**
 * Engines: links that open or do not, writes that land, fail, and settle some time later, fences, and engines that are
 * replaced. A write may land at any time until it has settled or is shut out; when it does, nobody is told.
 */
import { eachCopy, KvxError } from '@kvx/contract'
import type { DecodeEffect, PrefillEffect } from '@kvx/core/protocol'
import { endReserves } from './hear.ts'
import type { Engines, EngineLink, Side, Write } from './parts.ts'
import { canLand, isOurs, writerProcess } from './reach.ts'
import { component, engineAddress, skippedPages } from './small.ts'
import type { Move, Turn } from './turn.ts'
import { violate } from './violation.ts'

type Of<E, K> = Extract<E, { do: K }>

const failed = (why: string) => new KvxError('ERR_KVX_TRANSFER_FAILED', why, { phase: 'transfer' })

export function openLink(turn: Turn, { peer, generation }: Of<PrefillEffect, 'openLink'>): void {
  const link: EngineLink = {
    ...{ peer, generation, writer: turn.cast.prefill.generation },
    ...{ isDoomed: false, isRevoked: false, state: 'opening' },
  }
  turn.setEngines({ links: [...turn.engines.links, link] })
}

export function closeLink(turn: Turn, { peer, generation }: Of<PrefillEffect, 'closeLink'>): void {
  const isIt = (one: EngineLink) => one.peer === peer && one.generation === generation
  // An attempt ends some time later, perhaps with success.
  turn.setLinks((one) => isIt(one) && one.state === 'opening', { state: 'given up' })
  turn.setEngines({
    links: turn.engines.links.filter((one) => !(isIt(one) && one.state === 'open')),
  })
  turn.setWrites((one) => one.peer === peer && one.generation === generation && isOurs(turn, one), {
    isCancelled: true,
  })
}

export function post(turn: Turn, effect: Of<PrefillEffect, 'post'>): void {
  const { piece, peer, generation, plan } = effect
  const { cast, engines, books } = turn
  const link = engines.links.find(
    (one) => one.peer === peer && one.generation === generation && one.state === 'open',
  )
  const isHeard =
    link &&
    cast.decode.isAlive &&
    cast.decode.incarnation === peer &&
    cast.decode.generation === generation &&
    !link.isRevoked
  const cells: number[] = []
  const sources: number[] = []
  const { pages } = turn.spec
  const { pageBytes } = turn.ground.small
  eachCopy(plan, (_, source, __, destination) => {
    cells.push(destination / pageBytes)
    sources.push(source / pageBytes)
  })
  const ownerOf = (side: 'send' | 'receive', page: number) =>
    books.jobs.findIndex((job) => job[side].pages.includes(page))
  const [reader = -1, ...otherReaders] = new Set(
    sources.map((cell) => ownerOf('send', cell % pages)),
  )
  if (reader < 0 || otherReaders.length > 0)
    violate('post from a foreign page', 'prefill posts a page that is not of one request')
  let owner = -1
  if (isHeard) {
    const owners = new Set(cells.map((cell) => ownerOf('receive', cell % pages)))
    if (owners.has(-1) || owners.size !== 1)
      violate('post to a foreign page', 'prefill posts into a page of nobody, or of another')
    owner = [...owners][0]!
    if (owner !== reader)
      violate('post to another prompt', `room ${String(reader)} is posted to room ${String(owner)}`)
    checkMapping(turn, owner, sources, cells)
    const posted = engines.writes.flatMap((one) => (one.owner === owner ? one.cells : []))
    const taken = [...posted, ...books.jobs[owner]!.receive.landed]
    if (cells.some((cell) => taken.includes(cell)))
      violate('byte posted twice', `room ${String(owner)} is sent what it has been sent before`)
  }
  const reserve = books.reserves.findLast(
    ({ job, peer: by }) => job === owner && by === cast.prefill.incarnation,
  )
  const write: Write = {
    ...{ piece, peer, generation, writer: cast.prefill.generation, cells, reader, owner },
    ...{ epoch: reserve?.epoch ?? 0, isDoomed: link?.isDoomed ?? false },
    // Over a link that is closed nothing is sent.
    ...{ isRevoked: link === undefined || link.isRevoked, told: 'no', isCancelled: !link },
    ...{ isLost: false, settles: 'soon', isAbandoned: false },
  }
  turn.setEngines({ writes: [...engines.writes, write] })
  const flying = turn.engines.writes.filter(
    (one) => isOurs(turn, one) && one.generation === generation && !one.isAbandoned,
  )
  const bytes = flying.reduce((sum, one) => sum + one.cells.length * pageBytes, 0)
  if (flying.length > 1 && bytes > turn.spec.credit)
    violate('credits exceeded', `${String(bytes)} bytes are in flight to one peer`)
}

/** What is written belongs where it goes: the same layer of the same page of the prompt, or the slot of the request. */
function checkMapping(
  turn: Turn,
  job: number,
  sources: readonly number[],
  cells: readonly number[],
): void {
  const { spec, books } = turn
  const { pages, layers } = spec
  const { send, receive } = books.jobs[job]!
  for (const [i, source] of sources.entries()) {
    const cell = cells[i]!
    const isState = cell >= layers * pages
    const from = send.pages.indexOf(source % pages)
    const to = receive.pages.indexOf(cell % pages) + (isState ? 0 : skippedPages(spec))
    if (Math.floor(source / pages) !== Math.floor(cell / pages) || (from !== to && !isState))
      violate('post of the wrong bytes', `cell ${String(source)} is posted to ${String(cell)}`)
  }
}

export function cancel(turn: Turn, piece: number): void {
  turn.setWrites((one) => isOurs(turn, one) && one.piece === piece, { isCancelled: true })
}

export function fence(turn: Turn, { writer }: Of<DecodeEffect, 'fence'>): void {
  const { fences } = turn.engines
  if (!fences.includes(writer)) turn.setEngines({ fences: [...fences, writer] })
  // Who connects again later may write again.
  const { incarnation } = turn.cast.decode
  turn.setLinks((one) => one.writer === writer && one.peer === incarnation, { isDoomed: true })
  turn.setWrites((one) => one.writer === writer && one.peer === incarnation, { isDoomed: true })
}

export function recycle(turn: Turn, side: Side): void {
  const { isRecycling } = turn.engines
  turn.setEngines({ isRecycling: { ...isRecycling, [side]: true } })
}

/** The engine of a process ends with it. */
export function onExit(turn: Turn, side: Side): void {
  const { cast, engines, spec } = turn
  const { incarnation, generation } = cast[side]
  const other = side === 'prefill' ? 'decode' : 'prefill'
  const isConnected =
    side === 'prefill'
      ? engines.connected.includes(generation)
      : engines.links.some((one) => one.generation === generation && one.state === 'open')
  const gone = engines.gone.filter(({ to }) => to !== side)
  turn.setEngines({
    gone:
      spec.tells && isConnected && cast[other].isAlive
        ? [...gone, { to: other, generation }]
        : gone,
    isRecycling: { ...engines.isRecycling, [side]: false },
    ...(side === 'prefill' ? { digesting: [] } : { comparing: [] }),
  })
  if (side === 'decode') {
    turn.setEngines({ fences: [], connected: [], barred: [] })
    turn.setWrites(({ peer }) => peer === incarnation, { owner: -1 })
  } else turn.setEngines({ links: [] })
}

/** Writes of dead processes that cannot land any more concern nobody. */
export function forgetOrphans(turn: Turn): void {
  const matters = (one: Write) => isOurs(turn, one) || canLand(turn, one)
  const { writes } = turn.engines
  if (!writes.every(matters)) turn.setEngines({ writes: writes.filter(matters) })
}

export function engineMoves(turn: Turn, moves: Move[]): void {
  const { engines } = turn
  if (turn.runs('prefill')) {
    for (const link of engines.links) if (link.state !== 'open') attemptMoves(turn, link, moves)
    for (const write of engines.writes) if (isOurs(turn, write)) writeMoves(turn, write, moves)
    if (engines.isRecycling.prefill)
      moves.push({ label: () => 'prefill has a new engine', run: renewPrefill })
  }
  if (turn.runs('decode')) {
    for (const writer of engines.fences) fenceMoves(turn, writer, moves)
    if (engines.isRecycling.decode)
      moves.push({ label: () => 'decode has a new engine', run: renewDecode })
  }
  digestMoves(turn, moves)
  for (const one of engines.gone) {
    const { to, generation } = one
    if (!turn.runs(to)) continue
    moves.push({
      label: () => `the engine of ${to} says that ${generation} is gone`,
      canWait: true,
      run: (t) => {
        t.setEngines({ gone: t.engines.gone.filter((other) => other !== one) })
        const event = { type: 'peer.gone', generation, reason: 'It has exited.' } as const
        if (to === 'prefill') t.stepPrefill(event, `gone ${generation}`)
        else t.stepDecode(event, `gone ${generation}`)
      },
    })
  }
}

function attemptMoves(turn: Turn, link: EngineLink, moves: Move[]): void {
  const { peer, generation, writer, state } = link
  const { decode } = turn.cast
  const isThere = decode.isAlive && decode.incarnation === peer && decode.generation === generation
  const isBarred = turn.engines.barred.includes(writer)
  if (isThere && !isBarred && !decode.isFrozen)
    moves.push({
      label: () => `prefill's engine connects to ${generation}`,
      run: (t) => {
        const { connected, links } = t.engines
        t.setEngines({
          connected: connected.includes(writer) ? connected : [...connected, writer],
          links: links.flatMap((one) =>
            one !== link ? [one] : state === 'opening' ? [{ ...link, state: 'open' } as const] : [],
          ),
        })
        t.stepPrefill({ type: 'link.open', peer, generation }, `open ${peer} ${generation}`)
      },
    })
  if (!isThere || isBarred || decode.isFrozen || state === 'given up')
    moves.push({
      label: () => `prefill's engine cannot connect to ${generation}`,
      ...(isThere && state === 'opening' ? { canWait: true } : {}),
      run: (t) => {
        failAttempt(t, link)
      },
    })
}

function failAttempt(turn: Turn, link: EngineLink): void {
  const { peer, generation } = link
  turn.setEngines({ links: turn.engines.links.filter((one) => one !== link) })
  const text = 'no connection of the engines'
  const error = new KvxError('ERR_KVX_CONNECT_FAILED', text, { phase: 'hello' })
  turn.stepPrefill(
    { type: 'link.failed', peer, generation, error },
    `unopened ${peer} ${generation}`,
  )
}

function writeMoves(turn: Turn, write: Write, moves: Move[]): void {
  const { piece, told } = write
  const lands = canLand(turn, write)
  if (told === 'no' && lands && !write.isLost)
    moves.push({
      label: () => `write ${String(piece)} has landed`,
      run: (t) => {
        t.setWrites((one) => one === write, { told: 'done' })
        if (write.owner >= 0)
          t.setJob(write.owner, ({ receive }) => ({
            receive: { ...receive, landed: [...receive.landed, ...write.cells].sort() },
          }))
        t.stepPrefill({ type: 'piece.done', piece }, `done ${String(piece)}`)
      },
    })
  if (told === 'no' && (write.isCancelled || !lands))
    moves.push({
      label: () => `write ${String(piece)} fails`,
      run: (t) => {
        fail(t, write)
      },
    })
  if (told !== 'no' && write.settles !== 'never' && !write.isAbandoned)
    moves.push({
      label: () => `write ${String(piece)} settles`,
      ...(write.settles === 'late' ? { canWait: true } : {}),
      run: (t) => {
        t.setEngines({ writes: t.engines.writes.filter((one) => one !== write) })
        t.stepPrefill({ type: 'piece.settled', piece }, `settled ${String(piece)}`)
      },
    })
}

function fail(turn: Turn, write: Write, settles: Write['settles'] = write.settles): void {
  turn.setWrites((one) => one === write, { told: 'failed', settles })
  const { piece } = write
  turn.stepPrefill(
    { type: 'piece.failed', piece, error: failed('the write failed') },
    `failed ${String(piece)}`,
  )
}

function fenceMoves(turn: Turn, writer: string, moves: Move[]): void {
  const { cast, engines, spec } = turn
  const { incarnation } = cast.decode
  const goesOn = (one: { writer: string; peer: string }) =>
    one.writer === writer && one.peer === incarnation && isOurs(turn, one)
  if (spec.fence === 'exit' && [...engines.links, ...engines.writes].some(goesOn)) return
  moves.push({
    label: () => `decode has fenced ${writer}`,
    run: (t) => {
      const { fences, connected, barred } = t.engines
      t.setEngines({ fences: fences.filter((one) => one !== writer) })
      const isMeant = (one: { writer: string; isDoomed: boolean }) =>
        one.writer === writer && one.isDoomed
      t.setLinks(isMeant, { isRevoked: true, isDoomed: false })
      t.setWrites(isMeant, { isRevoked: true, isDoomed: false })
      if (!connected.includes(writer) && !barred.includes(writer))
        t.setEngines({ barred: [...barred, writer] })
      endReserves(t, writerProcess({ writer }))
      t.stepDecode({ type: 'fenced', writer }, `fenced ${writer}`)
    },
  })
}

function nextGeneration(of: string): string {
  const [, process = '', kind = '', number = '0'] = /^(.+)([ew])(\d+)$/.exec(of) ?? []
  return `${process}${kind}${String(Number(number) + 1)}`
}

function renewDecode(turn: Turn): void {
  turn.hit('recycle')
  const generation = nextGeneration(turn.cast.decode.generation)
  turn.setActor('decode', { generation })
  const { isRecycling } = turn.engines
  turn.setEngines({ isRecycling: { ...isRecycling, decode: false }, connected: [], barred: [] })
  turn.setWrites(() => true, { owner: -1 })
  endReserves(turn)
  const engine = engineAddress(turn.ground.small, generation)
  turn.stepDecode({ type: 'engine.recycled', engine }, `renewed ${generation}`)
}

function renewPrefill(turn: Turn): void {
  turn.hit('recycle')
  for (const link of turn.engines.links) if (link.state !== 'open') failAttempt(turn, link)
  const closed = turn.engines.writes.filter((one) => isOurs(turn, one))
  const isAmong = (one: Write) =>
    closed.some(({ piece }) => one.piece === piece && isOurs(turn, one))
  const { sockets } = turn.spec
  for (const { told, piece } of closed)
    if (told === 'no') {
      const error = failed('the engine was closed')
      turn.stepPrefill({ type: 'piece.failed', piece, error }, `closed ${String(piece)}`)
    }
  // Of sockets nobody knows whether what had been sent has arrived.
  if (sockets) turn.setWrites(isAmong, { isAbandoned: true, told: 'failed' })
  else {
    turn.setEngines({ writes: turn.engines.writes.filter((one) => !isAmong(one)) })
    for (const { piece } of closed)
      turn.stepPrefill({ type: 'piece.settled', piece }, `settled ${String(piece)}`)
  }
  const generation = nextGeneration(turn.cast.prefill.generation)
  turn.setActor('prefill', { generation })
  turn.setEngines({ links: [], isRecycling: { ...turn.engines.isRecycling, prefill: false } })
  turn.stepPrefill({ type: 'engine.recycled', generation }, `renewed ${generation}`)
}

/** Both sides take their time where hosts do. */
function digestMoves(turn: Turn, moves: Move[]): void {
  const { digesting, comparing } = turn.engines
  const slow = turn.spec.slowHosts ? ({ canWait: true } as const) : {}
  for (const one of turn.runs('prefill') ? digesting : [])
    moves.push({
      label: () => `prefill has the digests of room ${String(one.sender)}`,
      ...slow,
      run: (t) => {
        t.setEngines({ digesting: digesting.filter((other) => other !== one) })
        const digests = { [component]: new Uint8Array(16 * t.spec.layers) }
        t.stepPrefill({ type: 'digests', ...one, digests }, `digests ${String(one.epoch)}`)
      },
    })
  for (const one of turn.runs('decode') ? comparing : [])
    moves.push({
      label: () => `decode has compared room ${String(one.request)}`,
      ...slow,
      run: (t) => {
        compared(t, one, undefined)
      },
    })
}

function compared(
  turn: Turn,
  one: Engines['comparing'][number],
  error: KvxError | undefined,
): void {
  const { comparing } = turn.engines
  turn.setEngines({ comparing: comparing.filter((other) => other !== one) })
  turn.stepDecode(
    { type: 'verified', ...one, error },
    `compared ${String(one.epoch)} ${error?.code ?? 'right'}`,
  )
}

function comparisonFaults(turn: Turn, moves: Move[]): void {
  if (!turn.spec.faults.includes('damaged bytes') || !turn.runs('decode')) return
  for (const one of turn.engines.comparing)
    moves.push({
      label: () => `FAULT decode finds room ${String(one.request)} damaged`,
      isFault: true,
      run: (t) => {
        t.setJob(one.request, ({ receive }) => ({ receive: { ...receive, isDamaged: true } }))
        const text = 'a layer arrived damaged'
        compared(t, one, new KvxError('ERR_KVX_CHECKSUM_MISMATCH', text, { phase: 'complete' }))
      },
    })
}

export function engineFaults(turn: Turn, moves: Move[]): void {
  const { faults, fence: kind } = turn.spec
  comparisonFaults(turn, moves)
  if (!turn.runs('prefill')) return
  if (faults.includes('failed connect'))
    for (const link of turn.engines.links)
      if (link.state === 'opening')
        moves.push({
          label: () => `FAULT prefill's engine cannot connect to ${link.generation}`,
          isFault: true,
          column: 'engine',
          run: (t) => {
            failAttempt(t, link)
          },
        })
  for (const write of turn.engines.writes) {
    if (!isOurs(turn, write) || write.isAbandoned) continue
    const { piece, told } = write
    const add = (what: string, run: Move['run']) =>
      moves.push({
        label: () => `FAULT write ${String(piece)} ${what}`,
        isFault: true,
        column: 'engine',
        run,
      })
    if (told === 'no' && canLand(turn, write)) {
      if (faults.includes('failed write'))
        add('fails', (t) => {
          fail(t, write)
        })
      if (faults.includes('late settling'))
        add('fails and settles late', (t) => {
          fail(t, write, 'late')
        })
      if (faults.includes('no settling') && kind === 'engine')
        add('fails and never settles', (t) => {
          fail(t, write, 'never')
        })
      if (faults.includes('lost completion') && !write.isLost)
        add('loses its completion', (t) => {
          t.setWrites((one) => one === write, { isLost: true })
        })
    }
    if (told === 'done' && write.settles === 'soon' && faults.includes('late settling'))
      add('settles late', (t) => {
        t.setWrites((one) => one === write, { settles: 'late' })
      })
  }
}
