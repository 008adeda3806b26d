/**
 * The suites without a test runner.
 *
 * @packageDocumentation
 */
import { moduleOf, type ConformanceOptions, type Fixture } from './fixture.ts'
import { Parties } from './kit/parties.ts'
import { Refusal } from './kit/party.ts'
import { newGeneration } from './kit/host.ts'
import { World, type Facts } from './kit/world.ts'
import type { Check, Suite } from './suite.ts'
import { suites } from './suites/index.ts'

export { promises, BrokenPromise } from './kit/promises.ts'
export { suites } from './suites/index.ts'
export type { ConformanceOptions, DeviceWorkModule, Fixture, MemoryPlace } from './fixture.ts'

export interface Outcome {
  readonly suite: string
  readonly check: string
  readonly outcome: 'passed' | 'failed' | 'skipped'
  /** Why it was skipped, or which promise was broken. */
  readonly reason?: string
}

/** A check as `skip` and `only` name it. */
const nameOf = (suite: Suite, check: Check): string => `${suite.name}: ${check.name}`

/** @throws Error when one of `names` is no suite and no check */
function mustBeKnown(option: string, names: readonly string[]): void {
  const known = suites.flatMap((suite) => [
    suite.name,
    ...suite.checks.map((check) => nameOf(suite, check)),
  ])
  const unknown = names.find((name) => !known.includes(name))
  if (unknown === undefined) return
  throw new Error(
    `${option} names '${unknown}', which is no suite and no check. The suites are ${suites.map(({ name }) => name).join(', ')}.`,
  )
}

/** One fixture under test: its processes, and what its engine says of itself. */
export class Examination {
  readonly #fixture: Fixture
  readonly #skip: Readonly<Record<string, string>>
  readonly #parties: Parties
  #facts: Promise<Facts> | undefined

  constructor(fixture: Fixture, { skip = {} }: ConformanceOptions = {}) {
    mustBeKnown('skip', Object.keys(skip))
    const empty = Object.keys(skip).find((name) => skip[name]?.trim() === '')
    if (empty !== undefined) throw new Error(`skip must give the reason why '${empty}' is not run.`)
    moduleOf(fixture)
    this.#fixture = fixture
    this.#skip = skip
    this.#parties = new Parties(fixture)
  }

  /** @throws BrokenPromise, or any other error, when the engine fails the check. Answers why it was skipped. */
  async check(suite: Suite, check: Check): Promise<string | undefined> {
    const given = this.#skip[suite.name] ?? this.#skip[nameOf(suite, check)]
    if (given !== undefined) return given
    const facts = await (this.#facts ??= this.#ask())
    const without = check.unless(facts)
    if (without !== undefined) return without
    const world = new World(this.#fixture, facts, this.#parties)
    let failed = true
    try {
      await check.run(world)
      failed = false
    } finally {
      // The first failure counts.
      await world.end().catch((error: unknown) => {
        if (!failed) throw error
      })
    }
    return undefined
  }

  async close(): Promise<void> {
    await this.#parties.close()
  }

  async #ask(): Promise<Facts> {
    const party = this.#parties.take('writer')
    try {
      const { capabilities, identity, tellsPeerGone, stages } = await party.ask(
        'open',
        newGeneration(),
      )
      const { writer, owner } = this.#fixture.memory ?? {}
      const inHost = [writer, owner].every((place) => (place?.kind ?? 'cpu') === 'cpu')
      return { capabilities, backend: identity.backend, tellsPeerGone, stages, inHost }
    } catch (error) {
      const why = error instanceof Refusal ? `${error.code}: ${error.message}` : String(error)
      throw new Error(`The engine could not be opened: ${why}${party.output}`, { cause: error })
    } finally {
      await this.#parties.giveBack(party)
    }
  }
}

export interface RunOptions {
  /** Names of suites (`leaks`), and of checks (`leaks: a link, a thousand times`). Default: all. */
  readonly only?: readonly string[] | undefined
  /** No more checks of a suite after one of it has failed. Default: all are run. */
  readonly stopAtFailure?: boolean | undefined
}

/**
 * Runs suites, one check after the other, and tells what became of each.
 *
 * @throws Error as `engineConformance` does, and when `only` names no suite and no check
 */
export async function runConformance(
  fixture: Fixture,
  options: ConformanceOptions & RunOptions = {},
): Promise<Outcome[]> {
  const { only } = options
  mustBeKnown('only', only ?? [])
  const examination = new Examination(fixture, options)
  const outcomes: Outcome[] = []
  for (const suite of suites) {
    for (const check of suite.checks) {
      const isMeant = only?.includes(suite.name) ?? true
      if (!isMeant && only?.includes(nameOf(suite, check)) === false) continue
      const name = { suite: suite.name, check: check.name }
      try {
        const reason = await examination.check(suite, check)
        outcomes.push(
          reason === undefined
            ? { ...name, outcome: 'passed' }
            : { ...name, outcome: 'skipped', reason },
        )
      } catch (error) {
        outcomes.push({ ...name, outcome: 'failed', reason: (error as Error).message })
        if (options.stopAtFailure === true) break
      }
    }
  }
  await examination.close()
  return outcomes
}
