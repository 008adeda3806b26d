/**
 * Frames against the code that decides, without sockets: codec, schema, and the reducers with live
 * transfers in every phase. Any exception but a refusal is a finding, and so is any refused frame that
 * changes the state.
 */
import { isKvxError } from '../dist/backend/index.js'
import { decodeFrame, encodeMessage } from '../dist/control/codec.js'
import { parseMessage } from '../dist/protocol/index.js'
import { BootstrapWorld } from './bootstrap-world.mjs'
import { DecodeWorld } from './decode-world.mjs'
import { canonical } from './canonical.mjs'
import { makeFrame } from './mutate.mjs'
import { PrefillWorld } from './prefill-world.mjs'
import { Random } from './random.mjs'

const framesPerTurn = 64
const turnsPerWorld = 25

const counters = new Set(['dropped'])
/** What any message of a known sender moves: the watermark of its epochs, and when it was heard. */
const ownTraces = /\b(watermark|heard|news):[^,]*,/g

/** What is dropped because of who says it, of whom, or to whom. */
const authentication = /incarnation|generation|hello|sender/
/** Refusals that concern the request of both legs: they end it. */
const endsRequest = new Set(['ERR_KVX_PROMPT_MISMATCH'])

export class Finding extends Error {}

/**
 * @param {{ seed: number, frames: number, everyHash: number, onProgress(done: number): void }} options
 *   `everyHash`: the state is compared around every n-th refused frame
 * @returns {Record<string, number>} how many frames got how far
 */
export function fuzzReducers({ seed, frames, everyHash, onProgress }) {
  const random = new Random(seed)
  const counts = {}
  const add = (name) => {
    counts[name] = (counts[name] ?? 0) + 1
  }
  // Mutants of what is wrong to begin with would never get far.
  for (const world of [new PrefillWorld(random), new DecodeWorld(random)]) {
    for (const template of world.templates()) parseMessage(overTheWire(template))
  }
  let done = 0
  while (done < frames) {
    const share = random.below(20)
    const World = share < 9 ? PrefillWorld : share < 17 ? DecodeWorld : BootstrapWorld
    const world = new World(random)
    for (let turn = 0; turn < turnsPerWorld && done < frames; turn++) {
      const templates = world.templates()
      for (let i = 0; i < framesPerTurn && done < frames; i++) {
        const frame = makeFrame(random, templates)
        try {
          feedFrame(world, frame, random, everyHash, add)
        } catch (cause) {
          const bytes = Buffer.from(frame).toString('hex').slice(0, 8_000)
          throw new Finding(
            `frame ${done} of seed ${seed}, ${world.name}: ${cause.stack}\n${bytes}`,
          )
        }
        done++
        if (done % 50_000 === 0) onProgress(done)
      }
      world.turn()
    }
    const left = world.leftovers()
    if (left !== '')
      throw new Finding(
        `frame ${done} of seed ${seed}: the world of ${world.name} ended with ${left}.`,
      )
  }
  return counts
}

/** A message as the other side gets it. */
function overTheWire(message) {
  const [decoded] = decodeFrame(encodeMessage(message))
  return decoded
}

/** All messages of a frame, up to the first that is none. */
function feedFrame(world, frame, random, everyHash, add) {
  const messages = decodeFrame(frame)
  for (;;) {
    const next = refused(() => messages.next(), ['ERR_KVX_PROTOCOL'])
    if (next?.done) return
    const outcome = next ? feed(world, next.value, random, everyHash, add) : 'refused by the codec'
    add(`${world.name}: ${outcome}`)
    if (next === undefined) return
  }
}

function feed(world, message, random, everyHash, add) {
  const compares = everyHash === 1 || random.below(everyHash) === 0
  if (world instanceof BootstrapWorld) {
    const before = compares ? canonical(world.state, counters) : ''
    const outcome = world.receive(message)
    if (compares && outcome === 'refused') {
      add('compared')
      if (canonical(world.state, counters) !== before)
        throw new Error('a refused request changed the table')
    }
    return outcome === 'refused' ? 'refused by schema or table' : 'taken'
  }
  const parsed = refused(
    () => parseMessage(message),
    ['ERR_KVX_PROTOCOL', 'ERR_KVX_VERSION_MISMATCH'],
  )
  if (parsed === undefined) return 'refused by the schema'

  const { state } = world
  const from = world.from(parsed)
  let before = compares ? canonical(state, counters) : ''
  const dropsBefore = compares ? new Map(state.dropped) : undefined
  const drops = total(state.dropped)
  const isForeign = world.isForeign(from, parsed)
  const effects = world.step(from, parsed)
  const outcome = outcomeOf(effects, total(state.dropped) > drops, parsed)
  if (compares) {
    for (const effect of effects)
      if (effect.do === 'send') parseMessage(overTheWire(effect.message))
    if (outcome !== 'taken' || isForeign) {
      add('compared')
      const reasons = [...state.dropped]
        .filter(([reason, n]) => dropsBefore.get(reason) !== n)
        .map(([reason]) => reason)
      const isStrict =
        isForeign ||
        outcome === 'hello refused' ||
        reasons.some((reason) => authentication.test(reason))
      let after = canonical(state, counters)
      if (!isStrict) [before, after] = [before, after].map((text) => text.replaceAll(ownTraces, ''))
      if (after !== before)
        throw new Error(
          `${parsed.k}, ${outcome} (${reasons.join(', ')}), changed the state:\n${difference(before, after)}`,
        )
    }
  }
  return outcome
}

/** What `work` answers, or undefined when it refuses in the one way that is allowed. */
function refused(work, codes) {
  try {
    return work()
  } catch (error) {
    if (isKvxError(error) && codes.includes(error.code)) return undefined
    throw error
  }
}

function outcomeOf(effects, isDropped, message) {
  const refusal = effects.find(
    (effect) => effect.do === 'send' && effect.message.k === 'refuse',
  )?.message
  if (refusal && refusal.ep === undefined) return 'hello refused'
  if (refusal && message.k === 'reserve' && !endsRequest.has(refusal.code)) return 'reserve refused'
  return isDropped ? 'dropped' : 'taken'
}

function total(counts) {
  let sum = 0
  for (const count of counts.values()) sum += count
  return sum
}

function difference(before, after) {
  let at = 0
  while (before[at] === after[at]) at++
  return `${before.slice(Math.max(0, at - 200), at + 100)}\n→\n${after.slice(Math.max(0, at - 200), at + 100)}`
}
