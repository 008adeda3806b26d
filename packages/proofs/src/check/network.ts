/**
 * Control connections: a queue in each direction. One that is lost ends for its two sides at different moments; what was on
 * its way may still be read, or not. The bootstrap service answers who is registered, as it was when it was asked.
 */
import { KvxError } from '@kvx/contract'
import type { Message } from '@kvx/core/protocol'
import { freshName } from './names.ts'
import type { Net, Wire } from './parts.ts'
import { hearAtDecode, hearAtPrefill, numberOf, words } from './hear.ts'
import { bootstrap, endpoint } from './small.ts'
import type { Move, Turn } from './turn.ts'

/** Unread by a side that is frozen; with more the connection is cut. */
const longestQueue = 6

export function sendUp(turn: Turn, message: Message): void {
  const wire = turn.net.wires.find(({ id }) => id === turn.net.current)
  if (wire) send(turn, wire, 'up', message)
}

export function sendDown(turn: Turn, connection: string, message: Message): void {
  const wire = turn.net.wires.find(({ id }) => id === connection)
  if (wire?.server === 'open') send(turn, wire, 'down', message)
}

function send(turn: Turn, wire: Wire, way: 'up' | 'down', message: Message): void {
  if (wire.isBroken) return
  const reader = turn.cast[way === 'up' ? 'prefill' : 'decode']
  if (wire[way].length >= longestQueue && reader.isFrozen) {
    breakWire(turn, wire, false)
    return
  }
  const keeps = turn.spec.repeats.includes(way) && 'ep' in message && message.ep !== undefined
  const last = keeps ? { ...wire.last, [way]: message } : wire.last
  turn.setWire(wire.id, { [way]: [...wire[way], message], last })
}

/** @param isRead what is on its way may still be read */
function breakWire(turn: Turn, wire: Wire, isRead: boolean): void {
  const { up, down } = wire.last
  if (turn.spec.repeats.length > 0 && wire.client === 'open')
    turn.setNet({ again: { up: up ? [up] : [], down: down ? [down] : [] } })
  const queues = isRead ? {} : { up: [], down: [] }
  turn.setWire(wire.id, { isBroken: true, last: { up: undefined, down: undefined }, ...queues })
}

/** The client ends, with all that its connections have brought: prefill may still read what was said before. */
export function hangUp(turn: Turn): void {
  turn.setNet({ isWanted: false, current: undefined, again: { up: [], down: [] } })
  for (const { id, decode } of turn.net.wires) {
    if (decode !== turn.cast.decode.incarnation) continue
    turn.setWire(id, {
      ...{ isBroken: true, client: 'closed', down: [] },
      last: { up: undefined, down: undefined },
    })
  }
  sweep(turn)
}

/** The process of one side is gone with its sockets. */
export function onExit(turn: Turn, side: 'prefill' | 'decode'): void {
  const gone = { isBroken: true, last: { up: undefined, down: undefined } } as const
  for (const wire of turn.net.wires)
    turn.setWire(
      wire.id,
      side === 'prefill'
        ? { ...gone, server: 'closed', up: [] }
        : { ...gone, client: 'closed', down: [] },
    )
  // What a dead process had kept is gone with it.
  const { again } = turn.net
  if (side === 'prefill') turn.setNet({ again: { ...again, down: [] } })
  else
    turn.setNet({
      ...{ isWanted: false, current: undefined, watch: undefined },
      again: { up: [], down: [] },
    })
  sweep(turn)
}

/** Forgets what neither side can read any more. */
function sweep(turn: Turn): void {
  const isOver = ({ server, client, down }: Wire) =>
    server === 'closed' && client !== 'open' && down.length === 0
  if (turn.net.wires.some(isOver))
    turn.setNet({ wires: turn.net.wires.filter((wire) => !isOver(wire)) })
}

export function networkMoves(turn: Turn, moves: Move[]): void {
  for (const wire of turn.net.wires) wireMoves(turn, wire, moves)
  const { net, cast } = turn
  if (net.isWanted && net.current === undefined && turn.runs('prefill') && turn.runs('decode'))
    moves.push({ label: () => 'decode connects', run: connect })
  const current = net.wires.find(({ id }) => id === net.current)
  if (current && !current.isBroken) {
    for (const way of ['up', 'down'] as const) {
      const [message] = net.again[way]
      if (!message) continue
      moves.push({
        label: () => `the transport says again: ${words(message)}`,
        run: (t) => {
          t.setNet({ again: { ...t.net.again, [way]: [] } })
          t.setWire(current.id, { [way]: [...current[way], message] })
        },
      })
    }
  }
  const { watch } = net
  if (!watch || !turn.runs('decode')) return
  const registered = turn.runs('prefill') ? cast.prefill.incarnation : 'none'
  if (watch.answer !== undefined) moves.push({ label: () => 'the bootstrap answers', run: answer })
  else if (watch.told !== registered)
    moves.push({
      label: () => 'decode asks the bootstrap',
      run: (t) => {
        t.setNet({ watch: { ...watch, answer: registered } })
      },
    })
}

function wireMoves(turn: Turn, wire: Wire, moves: Move[]): void {
  const { id, up, down } = wire
  const [said] = up
  if (said && wire.server === 'open' && turn.runs('prefill'))
    moves.push({
      label: () => `prefill hears ${words(said)} on ${id}`,
      run: (t) => {
        t.setWire(id, { up: up.slice(1), isHeard: true })
        hearAtPrefill(t, id, said)
      },
    })
  const [told] = down
  if (told && wire.client !== 'closed' && turn.runs('decode'))
    moves.push({
      label: () => `decode hears ${words(told)} on ${id}`,
      run: (t) => {
        t.setWire(id, { down: down.slice(1) })
        sweep(t)
        hearAtDecode(t, wire.prefill, told)
      },
    })
  if (!wire.isBroken) return
  if (wire.server === 'open' && turn.runs('prefill'))
    moves.push({
      label: () => `prefill notices the end of ${id}`,
      run: (t) => {
        t.setWire(id, { server: 'closed', up: [] })
        sweep(t)
        if (wire.isHeard) t.stepPrefill({ type: 'disconnected', connection: id }, `end ${id}`)
      },
    })
  if (wire.client === 'open' && turn.runs('decode'))
    moves.push({
      label: () => `decode notices the end of ${id}`,
      run: (t) => {
        t.setWire(id, { client: 'noticed' })
        if (t.net.current === id) t.setNet({ current: undefined })
        sweep(t)
        t.stepDecode({ type: 'link.down', endpoint }, 'down')
      },
    })
  if (wire.client === 'noticed' && told)
    moves.push({
      label: () => `what was on ${id} is not read any more`,
      run: (t) => {
        t.setWire(id, { down: [] })
        sweep(t)
      },
    })
}

function connect(turn: Turn): void {
  const { cast, net } = turn
  const id = freshName(turn, 'c')
  const wire: Wire = {
    ...{ id, prefill: cast.prefill.incarnation, decode: cast.decode.incarnation },
    ...{ up: [], down: [], last: { up: undefined, down: undefined } },
    ...{ isBroken: false, isHeard: false, server: 'open', client: 'open' },
  }
  turn.setNet({ current: id, wires: [...net.wires, wire] })
  turn.stepDecode({ type: 'link.up', endpoint }, 'up')
}

function answer(turn: Turn): void {
  const { watch } = turn.net
  const registered = watch?.answer ?? 'none'
  turn.setNet({ watch: { answer: undefined, told: registered } })
  if (registered === 'none') {
    const text = 'the bootstrap does not answer'
    const error = new KvxError('ERR_KVX_BOOTSTRAP_UNREACHABLE', text, { phase: 'bootstrap' })
    turn.stepDecode({ type: 'source.failed', from: bootstrap, error }, 'unreachable')
    return
  }
  const { rank } = turn.ground.small
  const ranks = [{ endpoint, incarnation: registered, instance: 'prefill', rank }]
  turn.stepDecode({ type: 'source.read', from: bootstrap, ranks }, `read ${registered}`)
}

export function networkFaults(turn: Turn, moves: Move[]): void {
  if (turn.spec.faults.includes('unsaid message')) unsaid(turn, moves)
  if (!turn.spec.faults.includes('lost connection')) return
  for (const wire of turn.net.wires) {
    if (wire.isBroken) continue
    const ends = (isRead: boolean): Move => ({
      label: () =>
        `FAULT ${wire.id} breaks, ${isRead ? 'what is on its way may arrive' : 'what was on its way is lost'}`,
      isFault: true,
      column: 'reconnect',
      // The next one is made before any deadline, and whatever got lost is asked for or said again.
      isHarmless: true,
      run: (t) => {
        breakWire(t, wire, isRead)
      },
    })
    moves.push(ends(false))
    if (wire.up.length + wire.down.length > 0) moves.push(ends(true))
  }
}

/** No network loses one message of a connection that goes on; a peer with a defect may not say it. */
function unsaid(turn: Turn, moves: Move[]): void {
  for (const wire of turn.net.wires)
    for (const way of ['up', 'down'] as const) {
      const [message] = wire[way]
      if (!message || wire.isBroken) continue
      moves.push({
        label: () => `FAULT ${words(message)} is not said on ${wire.id}`,
        isFault: true,
        run: (t) => {
          t.setWire(wire.id, { [way]: wire[way].slice(1) })
        },
      })
    }
}

/** As it is told apart from others. */
export function netText(net: Net): string {
  const wires = net.wires.map((wire) => ({
    ...wire,
    up: wire.up.map(numberOf),
    down: wire.down.map(numberOf),
    last: [wire.last.up && numberOf(wire.last.up), wire.last.down && numberOf(wire.last.down)],
  }))
  const again = [net.again.up.map(numberOf), net.again.down.map(numberOf)]
  return JSON.stringify({ ...net, wires, again })
}
