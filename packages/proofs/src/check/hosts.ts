/** The hosts of both sides, and what their managers tell them: pages are leased, computed, and given back in the end. */
import type { KvxError } from '@kvx/contract'
import {
  receiveObjection,
  roomKey,
  sendObjection,
  type DecodeEffect,
  type PrefillEffect,
} from '@kvx/core/protocol'
import { checkLanded } from './hear.ts'
import type { Job, ReceiveLeg, SendLeg } from './parts.ts'
import { mayLandIn, mayRead } from './reach.ts'
import { bootstrap, component, deadlines, skippedPages, stateComponent, writesOf } from './small.ts'
import type { Spec } from './spec.ts'
import type { Move, Turn } from './turn.ts'
import { violate } from './violation.ts'

export type SenderNews = Extract<PrefillEffect, { do: `sender.${string}` }>
export type ReceiverNews = Extract<DecodeEffect, { do: `receiver.${string}` }>

const key = (job: number) => roomKey(BigInt(job), 0)
const setSend = (turn: Turn, job: number, change: Partial<SendLeg>) => {
  turn.setJob(job, ({ send }) => ({ send: { ...send, ...change } }))
}
const setReceive = (turn: Turn, job: number, change: Partial<ReceiveLeg>) => {
  turn.setJob(job, ({ receive }) => ({ receive: { ...receive, ...change } }))
}

/** Pages that nobody has, as many as a prompt needs there. */
function freePages(turn: Turn, side: 'send' | 'receive'): number[] | undefined {
  const taken = turn.books.jobs.flatMap((job) => job[side].pages)
  const free = Array.from({ length: turn.spec.pages }, (_, i) => i).filter(
    (page) => !taken.includes(page),
  )
  const { promptPages } = turn.spec
  const count = side === 'send' ? promptPages : promptPages - skippedPages(turn.spec)
  return free.length < count ? undefined : free.slice(0, count)
}

const lists = (pages: readonly number[]) => ({ [component]: Int32Array.from(pages) })
/** The state of a request has the number of its first page. */
const slots = ({ byLayers }: Spec, pages: readonly number[]) =>
  byLayers ? { [stateComponent]: Int32Array.from(pages.slice(0, 1)) } : {}

/** @param number of the request */
export const newJob = (spec: Spec, number: number): Job => ({
  isClean: !(spec.lacks !== undefined && number === spec.jobs - 1),
  send: { phase: 'none', end: undefined, written: 0, pages: [] },
  receive: {
    ...{ phase: 'none', end: undefined, cause: undefined, isWanted: false, isProvided: false },
    ...{ pages: [], landed: [] },
  },
})

/** Moments until it is the turn of a request that waits for it, of a host that runs; or Infinity. */
export function turnIn(turn: Turn): number {
  const waits = turn.books.jobs.flatMap(({ send, receive }) => [
    turn.runs('prefill') ? send.queued : undefined,
    turn.runs('decode') ? receive.queued : undefined,
  ])
  return Math.min(...waits.map((ms) => (ms === undefined || ms === 0 ? Infinity : ms)))
}

/** Their turns come nearer. */
export function passTurns(turn: Turn, ms: number): void {
  if (turnIn(turn) === Infinity) return
  const nearer = <Leg extends SendLeg | ReceiveLeg>(leg: Leg): Leg =>
    leg.queued === undefined ? leg : { ...leg, queued: Math.max(0, leg.queued - ms) }
  const jobs = turn.books.jobs.map(({ isClean, isAborted, send, receive }) => ({
    ...{ isClean, ...(isAborted && { isAborted }) },
    send: turn.runs('prefill') ? nearer(send) : send,
    receive: turn.runs('decode') ? nearer(receive) : receive,
  }))
  turn.setBooks({ jobs })
}

export function hostMoves(turn: Turn, moves: Move[]): void {
  const { slowHosts, lacks, jobs, byLayers } = turn.spec
  const isLacking = (job: number, what: Spec['lacks']) => lacks === what && job === jobs - 1
  const calls = writesOf(turn.spec).map((_, i) => i)
  const add = (job: number, what: string, run: Move['run']) =>
    moves.push({
      label: () => `${what} room ${String(job)}`,
      ...(slowHosts ? { canWait: true } : {}),
      run,
    })
  for (const [number, { send, receive }] of turn.books.jobs.entries()) {
    if (turn.runs('decode')) {
      if (receive.phase === 'none')
        add(number, 'decode receives', (t) => {
          startReceive(t, number)
        })
      if (receive.phase === 'new' && !receive.queued) {
        const pages = freePages(turn, 'receive')
        if (pages)
          add(number, 'decode reserves for', (t) => {
            reserve(t, number, pages)
          })
      }
      const isAwaited = receive.isWanted && !receive.isProvided && receive.end === undefined
      if (isAwaited && !isLacking(number, 'pages')) {
        const pages = freePages(turn, 'receive')
        if (pages)
          add(number, 'decode provides pages of', (t) => {
            provide(t, number, pages)
          })
      }
    }
    if (turn.runs('prefill')) {
      if (send.phase === 'none' && !isLacking(number, 'prefill leg'))
        add(number, 'prefill sends', (t) => {
          startSend(t, number)
        })
      if (send.phase === 'reserved' && send.queued) continue
      const left = calls.filter((call) => (send.written & (1 << call)) === 0)
      if (send.phase === 'reserved' && left.length > 0) {
        const pages = send.pages.length > 0 ? send.pages : freePages(turn, 'send')
        for (const call of pages ? (byLayers ? left : left.slice(0, 1)) : [])
          add(
            number,
            byLayers ? `prefill makes write ${String(call)} of` : 'prefill writes a page of',
            (t) => {
              write(t, number, call, pages!)
            },
          )
        if (byLayers)
          moves.push({
            label: () => `prefill finishes room ${String(number)} too early`,
            canWait: true,
            run: (t) => {
              finishEarly(t, number)
            },
          })
      } else if (send.phase === 'reserved') {
        add(number, 'prefill finishes', (t) => {
          finish(t, number)
        })
      }
    }
  }
}

function startReceive(turn: Turn, job: number): void {
  const { small, decodes } = turn.ground
  const objection = receiveObjection(decodes.at(turn.decode), key(job))
  if (objection)
    violate('request refused', `decode refuses room ${String(job)}: ${objection.message}`)
  const [turnAtDecode] = turn.spec.queued
  setReceive(turn, job, { phase: 'new', ...(turnAtDecode > 0 && { queued: turnAtDecode }) })
  const room = { request: job, key: key(job), room: BigInt(job), index: 0 }
  const tokens = tokensOf(turn)
  turn.stepDecode(
    {
      ...{ type: 'host.receive', ...room, from: bootstrap, tokens, digest: small.digest },
      ...{ dpRank: undefined, deadlines },
    },
    `receive ${String(job)}`,
  )
}

function reserve(turn: Turn, job: number, pages: readonly number[]): void {
  const { late, prefixTokens } = turn.spec
  setReceive(turn, job, { phase: 'reserving', ...(late ? {} : { pages }) })
  turn.stepDecode(
    {
      ...{ type: 'host.reserve', request: job, prefixTokens },
      pages: late ? undefined : { ...lists(pages), ...slots(turn.spec, pages) },
    },
    `reserve ${String(job)} ${String(pages)}`,
  )
}

function provide(turn: Turn, job: number, pages: readonly number[]): void {
  setReceive(turn, job, { isProvided: true, pages })
  turn.stepDecode(
    {
      ...{ type: 'host.provide', request: job },
      pages: { ...lists(pages), ...slots(turn.spec, pages) },
    },
    `provide ${String(job)} ${String(pages)}`,
  )
}

function startSend(turn: Turn, job: number): void {
  const { small, prefills } = turn.ground
  const objection = sendObjection(prefills.at(turn.prefill), key(job))
  if (objection)
    violate('request refused', `prefill refuses room ${String(job)}: ${objection.message}`)
  setSend(turn, job, { phase: 'waiting' })
  const tokens = tokensOf(turn)
  turn.stepPrefill(
    {
      ...{ type: 'host.send', sender: job, key: key(job), tokens, digest: small.digest },
      ...{ published: undefined, deadlines },
    },
    `send ${String(job)}`,
  )
  const [, turnAtPrefill] = turn.spec.queued
  if (turnAtPrefill > 0)
    turn.stepPrefill({ type: 'host.queued', sender: job, queued: true }, `queued ${String(job)}`)
}

const tokensOf = ({ spec }: Turn) => spec.promptPages * spec.pageTokens

function write(turn: Turn, job: number, call: number, pages: readonly number[]): void {
  const { tokens, pages: range, withState, layers } = writesOf(turn.spec)[call]!
  const { written } = turn.books.jobs[job]!.send
  setSend(turn, job, { pages, written: written | (1 << call) })
  turn.stepPrefill(
    {
      ...{ type: 'host.write', sender: job, write: call + 1, tokens, layers },
      pages: range ? lists(pages.slice(...range)) : {},
      state: withState ? slots(turn.spec, pages) : {},
    },
    `write ${String(job)} ${String(call)} ${String(pages)}`,
  )
}

/** A wrong call: it is refused, and changes nothing. */
function finishEarly(turn: Turn, job: number): void {
  const { prefills } = turn.ground
  const { to, effects } = prefills.step(
    turn.prefill,
    { type: 'host.finish', sender: job, state: {}, aux: {} },
    `finish ${String(job)} early`,
  )
  const isRejected = effects.length === 1 && effects[0]?.do === 'sender.rejected'
  if (!isRejected || to !== turn.prefill)
    violate('wrong call taken', `prefill lets room ${String(job)} finish before all is written`)
}

function finish(turn: Turn, job: number): void {
  setSend(turn, job, { phase: 'finishing' })
  turn.stepPrefill(
    { type: 'host.finish', sender: job, state: {}, aux: { firstToken: job } },
    `finish ${String(job)}`,
  )
}

export function hostFaults(turn: Turn, moves: Move[]): void {
  const { faults } = turn.spec
  const add = (side: string, job: number, run: Move['run']) =>
    moves.push({
      label: () => `FAULT the host of ${side} aborts room ${String(job)}`,
      isFault: true,
      run: (turn) => {
        if (turn.spec.tellsFaults) turn.setJob(job, () => ({ isAborted: true }))
        run(turn)
      },
    })
  const goesOn = ({ phase, end }: SendLeg | ReceiveLeg) =>
    phase !== 'none' && phase !== 'gone' && end === undefined
  for (const [job, { send, receive }] of turn.books.jobs.entries()) {
    if (faults.includes('abort of prefill') && turn.runs('prefill') && goesOn(send))
      add('prefill', job, (t) => {
        t.stepPrefill(
          { type: 'host.abort', sender: job, reason: 'unwanted' },
          `abort ${String(job)}`,
        )
      })
    if (faults.includes('abort of decode') && turn.runs('decode') && goesOn(receive))
      add('decode', job, (t) => {
        t.stepDecode(
          { type: 'host.abort', request: job, reason: 'unwanted' },
          `abort ${String(job)}`,
        )
      })
  }
}

/** The process of a side is gone with its host. */
export function onExit(turn: Turn, side: 'prefill' | 'decode'): void {
  const gone = { phase: 'gone', end: undefined, pages: [] } as const
  for (const [job, { send, receive }] of turn.books.jobs.entries()) {
    if (side === 'prefill' && send.phase !== 'none') setSend(turn, job, { ...gone, written: 0 })
    if (side === 'decode' && receive.phase !== 'none')
      setReceive(turn, job, {
        ...{ ...gone, cause: undefined, isWanted: false, isProvided: false, landed: [] },
      })
  }
  turn.setBooks(side === 'prefill' ? { heard: [] } : { reserves: [], lastEpoch: 0 })
}

/** Something went wrong: whoever runs may fail. */
export function spoil(turn: Turn): void {
  if (turn.books.jobs.some(({ isClean }) => isClean))
    turn.setBooks({ jobs: turn.books.jobs.map((job) => ({ ...job, isClean: false })) })
}

function failedUnhit(turn: Turn, job: number, side: string, error: KvxError): void {
  if (turn.books.jobs[job]!.isClean && !turn.spec.slowHosts)
    violate(
      'unhit request failed',
      `room ${String(job)} at ${side}, which no fault has hit: ${error.code}: ${error.message}`,
    )
}

export function onSenderNews(turn: Turn, news: SenderNews): void {
  const job = news.sender
  const { phase, end, written } = turn.books.jobs[job]!.send
  const unless = (right: boolean) => {
    if (!right)
      violate(
        'news out of order',
        `prefill: ${news.do} of room ${String(job)} while it is ${phase}`,
      )
  }
  switch (news.do) {
    case 'sender.reserved':
      unless(phase === 'waiting')
      setSend(turn, job, {
        phase: 'reserved',
        ...(turn.spec.queued[1] > 0 && { queued: turn.spec.queued[1] }),
      })
      return
    case 'sender.posted':
      unless(end === undefined && (written & (1 << (news.write - 1))) !== 0)
      return
    case 'sender.rejected':
      violate('proper call rejected', `prefill: ${news.error.message}`)
      return
    case 'sender.finished':
      unless(phase === 'finishing')
      setSend(turn, job, { phase: 'success', end: 'success' })
      return
    case 'sender.failed':
      unless(['waiting', 'reserved', 'finishing'].includes(phase))
      setSend(turn, job, { phase: 'failed', end: 'failed' })
      failedUnhit(turn, job, 'prefill', news.error)
      return
    case 'sender.settled':
      unless(phase === 'success' || phase === 'failed')
      if (mayRead(turn, job))
        violate('source pages given back early', `room ${String(job)}: a write still reads them`)
      setSend(turn, job, { phase: 'settled', pages: [], written: 0 })
  }
}

export function onReceiverNews(turn: Turn, news: ReceiverNews): void {
  const job = news.request
  const { receive } = turn.books.jobs[job]!
  const { phase, end } = receive
  const unless = (right: boolean) => {
    if (!right)
      violate('news out of order', `decode: ${news.do} of room ${String(job)} while it is ${phase}`)
  }
  switch (news.do) {
    case 'receiver.reached':
      unless(phase === 'new')
      return
    case 'receiver.accepted':
      unless(phase === 'reserving')
      setReceive(turn, job, { phase: 'accepted' })
      return
    case 'receiver.wanted':
      unless((phase === 'reserving' || phase === 'accepted') && !receive.isWanted && turn.spec.late)
      setReceive(turn, job, { isWanted: true })
      return
    case 'receiver.transferring':
      unless(phase === 'reserving' || phase === 'accepted')
      return
    case 'receiver.rejected':
      violate('proper call rejected', `decode: ${news.error.message}`)
      return
    case 'receiver.done':
      unless(phase === 'accepted')
      if (news.aux.firstToken !== job)
        violate('success with another token', `room ${String(job)}: ${String(news.aux.firstToken)}`)
      if (receive.isDamaged) violate('success with damaged bytes', `room ${String(job)}`)
      if (mayLandIn(turn, job)) violate('success while a write may land', `room ${String(job)}`)
      checkLanded(turn, job, 'success without its bytes')
      setReceive(turn, job, { phase: 'success', end: 'success' })
      return
    case 'receiver.failed':
      unless(end === undefined)
      setReceive(turn, job, { phase: 'failed', end: 'failed', cause: news.error.code })
      failedUnhit(turn, job, 'decode', news.error)
      return
    case 'receiver.settled':
      unless(phase === 'success' || phase === 'failed')
      if (mayLandIn(turn, job))
        violate('pages given back early', `room ${String(job)}: a write may still land in them`)
      if (phase === 'failed' && turn.books.reserves.some((one) => one.job === job && !one.isOver))
        violate('pages given back without proof', `room ${String(job)}: neither drained nor fenced`)
      setReceive(turn, job, { phase: 'settled', pages: [], landed: [] })
  }
}
