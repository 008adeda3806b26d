/** What the two sides say and hear, judged by the books: what is said is true, and the past changes nothing. */
import type { DecodeEffect, Message, PrefillEffect } from '@kvx/core/protocol'
import { decodeRow, prefillRow } from '@kvx/simulator'
import { namesIn } from './locals.ts'
import type { Books } from './parts.ts'
import { endpoint, skippedPages } from './small.ts'
import { textOf } from './text.ts'
import type { Column } from './cells.ts'
import type { Turn } from './turn.ts'
import { violate } from './violation.ts'
import { mayLandOf } from './reach.ts'

const numbers = new WeakMap<Message, number>()
const byText = new Map<string, number>()
const namesOf: ReadonlySet<string>[] = []

/** Equal messages have the same. */
export function numberOf(message: Message): number {
  const known = numbers.get(message)
  if (known !== undefined) return known
  const text = textOf(message, 0)
  let number = byText.get(text)
  if (number === undefined) {
    number = byText.size
    byText.set(text, number)
    namesOf.push(namesIn(text))
  }
  numbers.set(message, number)
  return number
}

/** Names that stand in it. */
export function mentioned(message: Message): ReadonlySet<string> {
  return namesOf[numberOf(message)]!
}

export function words(message: Message): string {
  const { k, from, to } = message
  const about = [
    ...('gen' in message ? [message.gen] : []),
    ...('ep' in message && message.ep !== undefined ? [`epoch ${String(message.ep)}`] : []),
    ...('state' in message ? [message.state] : []),
    ...('code' in message ? [message.code] : []),
    ...(message.k === 'status' && message.outcome ? [`with ${message.outcome.k}`] : []),
  ]
  return `${k}(${[`${from} to ${to}`, ...about].join(', ')})`
}

function setReserve(turn: Turn, epoch: number, change: Partial<Books['reserves'][number]>): void {
  const reserves = turn.books.reserves.map((one) =>
    one.epoch === epoch ? { ...one, ...change } : one,
  )
  turn.setBooks({ reserves })
}

/** What was reserved at this prefill process, or at all, is over. */
export function endReserves(turn: Turn, peer?: string): void {
  for (const { epoch, peer: of } of turn.books.reserves)
    if (peer === undefined || of === peer) setReserve(turn, epoch, { isOver: true })
}

const answers: readonly string[] = ['refuse', 'drained', 'status', 'ready']

function mustChangeNothing(
  who: string,
  message: Message,
  effects: readonly (PrefillEffect | DecodeEffect)[],
): void {
  for (const effect of effects) {
    if (effect.do === 'send' && answers.includes(effect.message.k)) continue
    const answer = effect.do === 'send' ? words(effect.message) : effect.do
    violate(
      'foreign message acted upon',
      `${who} answers ${words(message)}, which is not for it, with ${answer}`,
    )
  }
}

/** An abort concerns only what is said of its request. */
function columnsOf({ cast, books }: Turn, message: Message): readonly Column[] {
  const epoch = 'ep' in message ? message.ep : undefined
  const reserve = books.reserves.find((one) => one.epoch === epoch)
  const isAborted = reserve && books.jobs[reserve.job]?.isAborted
  return isAborted ? [...cast.columns, 'abort'] : cast.columns
}

export function hearAtPrefill(turn: Turn, connection: string, message: Message): void {
  const { prefills, cells } = turn.ground
  cells.add(
    prefillRow(prefills.at(turn.prefill), connection, message),
    turn.isHit,
    columnsOf(turn, message),
  )
  const isForeign = isForeignAtPrefill(turn, message)
  const key = `${connection} ${String(numberOf(message))}`
  const effects = turn.stepPrefill({ type: 'message', connection, message }, key)
  if (isForeign) mustChangeNothing('prefill', message, effects)
}

function isForeignAtPrefill(turn: Turn, message: Message): boolean {
  const { incarnation } = turn.cast.prefill
  if (message.to !== incarnation) return true
  const { heard } = turn.books
  const known = heard.find(({ peer }) => peer === message.from)
  const others = heard.filter((one) => one !== known)
  if (message.k === 'hello') {
    const epoch = Math.max(known?.epoch ?? 0, message.epoch)
    turn.setBooks({ heard: [...others, { peer: message.from, gen: message.gen, epoch }] })
    return false
  }
  if (!('ep' in message) || message.ep === undefined) return false
  if (message.gen !== known?.gen) return true
  const epoch = Math.max(known.epoch, message.ep)
  turn.setBooks({ heard: [...others, { ...known, epoch }] })
  return message.k === 'reserve' && message.ep <= known.epoch
}

/** @param prefill the process at the other end of the connection */
export function hearAtDecode(turn: Turn, prefill: string, message: Message): void {
  const { decode } = turn.cast
  const { decodes, cells } = turn.ground
  cells.add(
    decodeRow(decodes.at(turn.decode), endpoint, message),
    turn.isHit,
    columnsOf(turn, message),
  )
  const isForeign =
    message.to !== decode.incarnation ||
    message.from !== prefill ||
    ('gen' in message && message.gen !== decode.generation)
  if (!isForeign) onDecodeHears(turn, message)
  const effects = turn.stepDecode(
    { type: 'message', endpoint, message },
    `hears ${String(numberOf(message))}`,
  )
  if (isForeign) mustChangeNothing('decode', message, effects)
}

function onDecodeHears(turn: Turn, message: Message): void {
  if (!('ep' in message) || message.ep === undefined) return
  const reserve = turn.books.reserves.find(({ epoch }) => epoch === message.ep)
  if (reserve?.peer !== message.from) return
  const outcome = message.k === 'status' ? message.outcome?.k : message.k
  const isOver = message.k === 'status' && message.state === 'over'
  if (outcome === 'complete' || isOver || message.k === 'drained' || message.k === 'refuse')
    setReserve(turn, message.ep, { isOver: true })
}

export function onDecodeSays(turn: Turn, message: Message): void {
  const { reserves, jobs, lastEpoch } = turn.books
  if (message.k === 'abort') {
    const reserve = reserves.find(({ epoch }) => epoch === message.ep)
    const cause = reserve && jobs[reserve.job]!.receive.cause
    if (cause !== undefined && cause !== message.code)
      violate(
        'first cause lost',
        `decode aborts epoch ${String(message.ep)} with ${message.code}; its host was told ${cause}`,
      )
    return
  }
  if (message.k !== 'reserve') return
  if (message.ep <= lastEpoch)
    violate('epoch used twice', `decode uses ${String(message.ep)} again`)
  const job = Number(message.room)
  const reserve = { epoch: message.ep, job, peer: message.to, isOver: false, told: undefined }
  if (jobs[job]?.receive.phase !== 'reserving')
    violate('reserve of nobody', `decode reserves for room ${String(job)}`)
  turn.setBooks({ lastEpoch: message.ep, reserves: [...reserves, reserve] })
}

export function onPrefillSays(turn: Turn, message: Message): void {
  if (!('ep' in message) || message.ep === undefined) return
  const { decode, prefill } = turn.cast
  if (message.to !== decode.incarnation) return
  const reserve = turn.books.reserves.find(({ epoch }) => epoch === message.ep)
  if (reserve?.peer !== prefill.incarnation) return
  const failure = message.k === 'status' ? message.outcome : message
  if (failure?.k === 'failed') {
    const told = `${failure.code}: ${failure.text}`
    if (reserve.told !== undefined && reserve.told !== told)
      violate('first cause lost', `prefill says ${told}; before it was ${reserve.told}`)
    setReserve(turn, message.ep, { told })
  }
  const isOver = message.k === 'status' && message.state === 'over'
  if (!isOver && !['drained', 'refuse', 'complete'].includes(message.k)) return
  if (mayLandOf(turn, { epoch: message.ep, peer: prefill.incarnation }))
    violate(
      `${message.k === 'complete' ? 'complete' : 'drained'} while a write may land`,
      `prefill says ${words(message)}`,
    )
  if (message.k !== 'complete' || message.gen !== decode.generation) return
  const { receive } = turn.books.jobs[reserve.job]!
  if (receive.end === undefined) checkLanded(turn, reserve.job, 'complete too early')
}

/** Every layer of every page of a request has landed. */
export function checkLanded(turn: Turn, job: number, check: string): void {
  const { pages, landed } = turn.books.jobs[job]!.receive
  const { layers, pages: all, promptPages, byLayers } = turn.spec
  const needed = promptPages - skippedPages(turn.spec)
  for (let layer = 0; layer < layers * (byLayers ? 2 : 1); layer++)
    for (const page of layer < layers ? pages : pages.slice(0, 1))
      if (!landed.includes(layer * all + page))
        violate(
          check,
          `room ${String(job)}: layer ${String(layer)} of page ${String(page)} has not landed`,
        )
  if (pages.length !== needed) violate(check, `room ${String(job)} has no pages`)
}
