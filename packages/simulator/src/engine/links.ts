/** How the engines of prefill connect to those of decode. */
import { KvxError } from '@kvx/contract'
import type { PrefillEffect } from '@kvx/core/protocol'
import type { Context } from '../machine/context.ts'
import { violate } from '../machine/violation.ts'
import type { Cuts } from '../network/cuts.ts'
import type { Cast } from '../ranks/cast.ts'
import type { EngineLink } from '../ranks/link.ts'
import type { PrefillRank } from '../ranks/prefill.ts'
import { fault } from '../shape/faults.ts'
import type { Writes } from './writes.ts'

export class Links {
  readonly #context: Context
  readonly #cast: Cast
  readonly #cuts: Cuts
  readonly #writes: Writes

  constructor(context: Context, cast: Cast, cuts: Cuts, writes: Writes) {
    this.#context = context
    this.#cast = cast
    this.#cuts = cuts
    this.#writes = writes
  }

  open(from: PrefillRank, effect: PrefillEffect & { do: 'openLink' }): void {
    const { peer, generation, timeoutMs } = effect
    const { clock, random } = this.#context
    const key = linkKey(peer, generation)
    const target =
      this.#cast.decodeOf(peer) ?? violate('link to nobody', `${from.name} connects to ${peer}`)
    const writer = from.generation
    const link: EngineLink = {
      ...{ target, generation, writer },
      state: 'opening',
      revoked: false,
      abort: () => {
        from.later(random.between(1, 20), () => {
          if (from.opening.has(fail)) fail()
        })
      },
    }
    from.links.set(key, link)
    const end = clock.now + timeoutMs
    const fails = from.slot.armed.failingConnects > 0
    if (fails) {
      from.slot.armed.failingConnects--
      from.slot.mask |= fault.engine
    }
    // Whatever happens to the link meanwhile, the attempt ends, and that is told.
    const fail = () => {
      from.opening.delete(fail)
      link.state = 'closed'
      if (from.links.get(key) === link) from.links.delete(key)
      this.#context.log(() => `${from.name} cannot connect its engine to ${target.name}`)
      const error = new KvxError('ERR_KVX_CONNECT_FAILED', 'no connection of the engines', {
        phase: 'hello',
      })
      from.step({ type: 'link.failed', peer, generation, error })
    }
    from.opening.add(fail)
    const attempt = () => {
      if (!from.opening.has(fail)) return
      const barred = target.barred.has(writer)
      const here = target.alive && target.generation === generation && !target.frozen
      if (here && !barred && !fails && !this.#cuts.isCut(target.slot, from.slot)) {
        from.opening.delete(fail)
        if (link.state === 'opening') link.state = 'open'
        this.#context.log(() => `${from.name} has connected its engine to ${target.name}`)
        target.everConnected.add(writer)
        from.step({ type: 'link.open', peer, generation })
      } else if (clock.now >= end || fails || barred || !target.alive) {
        fail()
      } else {
        from.later(random.between(20, 90), attempt)
      }
    }
    from.later(random.between(1, 15), attempt)
  }

  close(from: PrefillRank, peer: string, generation: string): void {
    const key = linkKey(peer, generation)
    const link = from.links.get(key)
    if (!link) return
    from.links.delete(key)
    link.state = 'closed'
    link.abort()
    this.#writes.cancelOf(link)
  }

  /** Undefined when it is not open any more. */
  openTo(from: PrefillRank, peer: string, generation: string): EngineLink | undefined {
    const link = from.links.get(linkKey(peer, generation))
    return link?.state === 'open' ? link : undefined
  }
}

function linkKey(peer: string, generation: string): string {
  return `${peer}/${generation}`
}
