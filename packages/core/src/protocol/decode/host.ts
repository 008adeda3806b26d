/** What the host says of a request, after `receive`: where to, and that it is not wanted any more. */
import { KvxError, type ErrorCode, type Phase } from '@kvx/contract'
import { hostReason } from '../keys.ts'
import { rankName } from '../../share/index.ts'
import { sendPages } from './leg.ts'
import { pagesObjection, withState } from './pages.ts'
import { advance, failRequest } from './request.ts'
import type { DecodeEvent, DecodeStep, Request } from './state.ts'

export function onReserve(step: DecodeStep, event: DecodeEvent & { type: 'host.reserve' }): void {
  const request = step.state.requests.get(event.request)
  if (!request || request.error) return
  const { self } = step.state
  const { tokens } = request
  const prefixTokens =
    event.prefixTokens === tokens
      ? tokens
      : Math.floor(event.prefixTokens / self.prefixBlock) * self.prefixBlock
  if (request.destination) {
    reject(step, request, 'ERR_KVX_INVALID_STATE', 'reserve() may be called only once.')
    return
  }
  const pages = event.pages && withState(self, event.pages)
  const wrong =
    event.prefixTokens < 0 || event.prefixTokens > tokens
      ? `prefixTokens must be from 0 to the ${String(tokens)} tokens of the prompt, got ${String(event.prefixTokens)}.`
      : pagesObjection(self, { tokens, prefix: prefixTokens }, pages)
  if (wrong) {
    reject(step, request, 'ERR_KVX_INVALID_ARGUMENT', `reserve(): ${wrong}`)
    return
  }
  request.destination = { prefixTokens, pages }
  if (request.phase === 'open') request.deadline = step.now + request.deadlines.reserve
  advance(step, request)
}

export function onProvide(step: DecodeStep, event: DecodeEvent & { type: 'host.provide' }): void {
  const request = step.state.requests.get(event.request)
  if (!request || request.error) return
  const { destination, tokens } = request
  if (!destination) {
    reject(step, request, 'ERR_KVX_INVALID_STATE', 'provide() needs reserve() without pages first.')
    return
  }
  if (destination.pages) {
    reject(step, request, 'ERR_KVX_INVALID_STATE', 'its pages were given before.')
    return
  }
  const prompt = { tokens, prefix: destination.prefixTokens }
  const pages = withState(step.state.self, event.pages)
  const wrong = pagesObjection(step.state.self, prompt, pages)
  if (wrong) {
    reject(step, request, 'ERR_KVX_INVALID_ARGUMENT', `provide(): ${wrong}`)
    return
  }
  destination.pages = pages
  for (const leg of request.legs) sendPages(step, leg)
}

/** A wrong call of the host changes nothing: the right one may follow. */
function reject(step: DecodeStep, { id, key }: Request, code: ErrorCode, text: string): void {
  const error = new KvxError(code, `Room ${key}: ${text}`, { phase: 'reserve' })
  step.out.push({ do: 'receiver.rejected', request: id, error })
}

export function onHostAbort(step: DecodeStep, id: number, reason: unknown): void {
  const request = step.state.requests.get(id)
  if (!request) return
  const { instance, rank } = step.state.self
  const where = { phase: phaseOf(request), peer: instance, rank: rankName(rank) }
  failRequest(step, request, hostReason(reason, where))
}

function phaseOf(request: Request): Phase {
  switch (request.phase) {
    case 'resolving':
    case 'routing':
      return 'hello'
    case 'open':
    case 'reserving':
      return 'reserve'
    case 'accepted':
      return 'parked'
    default:
      return 'transfer'
  }
}
