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
import { bootstrap, component, deadlines } from './small.ts'
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

/** Pages that nobody has, as many as a prompt needs. */
function freePages(turn: Turn, side: 'send' | 'receive'): number[] | undefined {
  const taken = turn.books.jobs.flatMap((job) => job[side].pages)
  const free = Array.from({ length: turn.spec.pages }, (_, i) => i).filter(
    (page) => !taken.includes(page),
  )
  const { promptPages } = turn.spec
  return free.length < promptPages ? undefined : free.slice(0, promptPages)
}

const lists = (pages: readonly number[]) => ({ [component]: Int32Array.from(pages) })

export const newJob: Job = {
  isClean: true,
  send: { phase: 'none', end: undefined, written: 0, pages: [] },
  receive: {
    ...{ phase: 'none', end: undefined, cause: undefined, isWanted: false, isProvided: false },
    ...{ pages: [], landed: [] },
  },
}

export function hostMoves(turn: Turn, moves: Move[]): void {
  const { slowHosts } = turn.spec
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
      if (receive.phase === 'new') {
        const pages = freePages(turn, 'receive')
        if (pages)
          add(number, 'decode reserves for', (t) => {
            reserve(t, number, pages)
          })
      }
      if (receive.isWanted && !receive.isProvided && receive.end === undefined) {
        const pages = freePages(turn, 'receive')
        if (pages)
          add(number, 'decode provides pages of', (t) => {
            provide(t, number, pages)
          })
      }
    }
    if (turn.runs('prefill')) {
      if (send.phase === 'none')
        add(number, 'prefill sends', (t) => {
          startSend(t, number)
        })
      if (send.phase === 'reserved' && send.written < turn.spec.promptPages) {
        const pages = send.pages.length > 0 ? send.pages : freePages(turn, 'send')
        if (pages)
          add(number, 'prefill writes a page of', (t) => {
            write(t, number, pages)
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
  setReceive(turn, job, { phase: 'new' })
  const room = { request: job, key: key(job), room: BigInt(job), index: 0 }
  const { promptPages: tokens } = turn.spec
  turn.stepDecode(
    {
      ...{ type: 'host.receive', ...room, from: bootstrap, tokens, digest: small.digest },
      ...{ dpRank: undefined, deadlines },
    },
    `receive ${String(job)}`,
  )
}

function reserve(turn: Turn, job: number, pages: readonly number[]): void {
  const { late } = turn.spec
  setReceive(turn, job, { phase: 'reserving', ...(late ? {} : { pages }) })
  turn.stepDecode(
    {
      ...{ type: 'host.reserve', request: job, prefixTokens: 0 },
      pages: late ? undefined : lists(pages),
    },
    `reserve ${String(job)} ${String(pages)}`,
  )
}

function provide(turn: Turn, job: number, pages: readonly number[]): void {
  setReceive(turn, job, { isProvided: true, pages })
  turn.stepDecode(
    { type: 'host.provide', request: job, pages: lists(pages) },
    `provide ${String(job)} ${String(pages)}`,
  )
}

function startSend(turn: Turn, job: number): void {
  const { small, prefills } = turn.ground
  const objection = sendObjection(prefills.at(turn.prefill), key(job))
  if (objection)
    violate('request refused', `prefill refuses room ${String(job)}: ${objection.message}`)
  setSend(turn, job, { phase: 'waiting' })
  const { promptPages: tokens } = turn.spec
  turn.stepPrefill(
    {
      ...{ type: 'host.send', sender: job, key: key(job), tokens, digest: small.digest },
      ...{ published: undefined, deadlines },
    },
    `send ${String(job)}`,
  )
}

function write(turn: Turn, job: number, pages: readonly number[]): void {
  const { written } = turn.books.jobs[job]!.send
  setSend(turn, job, { pages, written: written + 1 })
  turn.stepPrefill(
    {
      ...{ type: 'host.write', sender: job, write: written + 1, tokens: [written, written + 1] },
      ...{ pages: lists([pages[written]!]), state: {}, layers: undefined },
    },
    `write ${String(job)} ${String(written)} ${String(pages)}`,
  )
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
      run,
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
      setSend(turn, job, { phase: 'reserved' })
      return
    case 'sender.posted':
      unless(end === undefined && news.write <= written)
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
