/** How the two sides introduce themselves. */
import { protocolVersion, type MessageOf } from './messages.ts'
import type { DecodeSelf, EngineAddress } from './decode/state.ts'
import type { PrefillSelf } from './prefill/state.ts'

/** @param about what both sides count */
export function helloOf(
  self: DecodeSelf,
  engine: EngineAddress,
  about: { to: string; epoch: number; fences: number },
): MessageOf<'hello'> {
  return {
    v: protocolVersion,
    k: 'hello',
    speaks: [protocolVersion, protocolVersion],
    from: self.incarnation,
    gen: engine.generation,
    session: self.session,
    instance: self.instance,
    rank: self.rank,
    shape: self.packed.shape,
    place: self.packed.place,
    engine: {
      backend: self.backend,
      version: self.version,
      address: engine.address,
      regions: [...engine.regions],
    },
    ...(self.staging &&
      engine.staging && {
        staging: { region: engine.staging, bayBytes: self.staging.bayBytes },
      }),
    ...about,
  }
}

/** @param about the generations of both engines, decode's and this side's */
export function welcomeOf(
  self: PrefillSelf,
  about: { to: string; gen: string; writer: string },
): MessageOf<'welcome'> {
  return {
    v: protocolVersion,
    k: 'welcome',
    from: self.incarnation,
    instance: self.instance,
    rank: self.rank,
    shape: self.packed.shape,
    place: self.packed.place,
    engine: { backend: self.backend, version: self.version },
    limits: { parked: self.limits.parkedPerPeer, auxBytes: self.limits.auxBytes },
    ...about,
  }
}
