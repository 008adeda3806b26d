/** What an engine says of itself: whole, constant, and true where it can be seen at once. */
import type { Capabilities, MemoryKind } from '@kvx/contract'
import { newGeneration } from '../kit/host.ts'
import { whole } from '../kit/plans.ts'
import { must } from '../kit/promises.ts'
import { refusal } from '../kit/world.ts'
import { check, type Suite } from '../suite.ts'

const kinds: readonly MemoryKind[] = ['cpu', 'cuda', 'hip']
const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0

/** What is wrong with capabilities; undefined when nothing is. */
function objection(it: Capabilities): string | undefined {
  const given: unknown = it.memoryKinds
  if (!Array.isArray(given) || given.length === 0)
    return 'memoryKinds must be a list that is not empty'
  const unknown = it.memoryKinds.find((kind) => !kinds.includes(kind))
  if (unknown !== undefined) return `memoryKinds must be of ${kinds.join(', ')}, got ${unknown}`
  if (typeof it.crossHost !== 'boolean') return 'crossHost must be true or false'
  if (!['peer', 'engine', 'exit'].includes(it.fence)) return 'fence must be peer, engine or exit'
  if (!isCount(it.maxSegmentBytes)) return 'maxSegmentBytes must be a number of bytes, or 0'
  if (!isCount(it.minEfficientRun)) return 'minEfficientRun must be a number of bytes, or 0'
  if (it.after !== undefined && typeof it.after !== 'boolean') return 'after must be true or false'
  return undefined
}

export const manifest: Suite = {
  name: 'manifest',
  checks: [
    check('the module exports a backend of this version of the contract', async (world) => {
      const found = await world.party('writer').ask('load')
      must(
        found.isBackend,
        'backend',
        `The default export of the module is no backend: its name is ${found.name}, its contract version ${found.version}.`,
      )
    }),
    check('capabilities are whole, frozen, and the same after a transfer', async (world) => {
      const { writer, link } = await world.pair(4096)
      const { capabilities, frozen } = await writer.party.ask('describe', writer.engine)
      const wrong = objection(capabilities)
      must(wrong === undefined, 'capabilities', `${String(wrong)}.`)
      must(frozen, 'capabilities', 'capabilities, or its list memoryKinds, is not frozen.')
      await link.move(whole(4096))
      const later = await writer.party.ask('describe', writer.engine)
      must(
        JSON.stringify(later.capabilities) === JSON.stringify(capabilities),
        'capabilities',
        `They were ${JSON.stringify(capabilities)}, and are ${JSON.stringify(later.capabilities)} after a transfer.`,
      )
    }),
    check(
      'the identity names the backend, its version, and the generation given',
      async (world) => {
        const party = world.party('writer')
        const { name } = await party.ask('load')
        const generation = newGeneration()
        const { identity } = await party.ask('open', generation)
        must(
          identity.generation === generation,
          'generation',
          `The engine was opened as ${generation} and calls itself ${identity.generation}.`,
        )
        must(
          identity.backend === name && identity.version !== '',
          'backend',
          `The identity is ${JSON.stringify(identity)}, the backend's name ${name}.`,
        )
      },
    ),
    check('the address is bytes, and stays the same', async (world) => {
      const { writer, owner } = await world.pair(4096)
      for (const host of [writer, owner]) {
        const { address } = await host.party.ask('describe', host.engine)
        must(address instanceof Uint8Array, 'address', 'The address is no Uint8Array.')
        must(
          Buffer.compare(address, host.address) === 0,
          'address',
          'The address has changed after a connect.',
        )
      }
    }),
    check('memory of a kind that is not declared is refused', async (world) => {
      const host = await world.host('writer')
      const memory = await host.allocate(4096)
      for (const kind of kinds.filter((one) => !world.facts.capabilities.memoryKinds.includes(one)))
        await refusal(
          host.register(memory, { kind }),
          ['ERR_KVX_MEMORY'],
          'memoryKinds',
          `Memory of the kind ${kind}, which is not declared,`,
        )
    }),
    check('every declared kind of memory is tried by the fixture', async (world) => {
      const { writer, owner } = world.fixture.memory ?? {}
      const tried = new Set(['cpu', writer?.kind, owner?.kind])
      const untried = world.facts.capabilities.memoryKinds.filter((kind) => !tried.has(kind))
      must(
        untried.length === 0,
        'memoryKinds',
        `The engine declares memory of the kind ${untried.join(', ')}, of which the fixture has none. Run engineConformance once more with memory: { writer: { kind }, owner: { kind } }, and skip this check here with that reason.`,
      )
    }),
    check('an option that does not exist is refused by its name', async (world) => {
      const options = { ...world.fixture.options, thisIsNoOption: 1 }
      const { message } = await refusal(
        world.party('writer').ask('open', newGeneration(), options),
        ['ERR_KVX_INVALID_OPTION'],
        'options',
        "The option 'thisIsNoOption'",
      )
      must(
        message.includes('thisIsNoOption'),
        'options',
        `The refusal does not name the option: ${message}`,
      )
    }),
  ],
}
