/** The question whether an engine can run here: always answered, and nothing is different afterwards. */
import type { Probe } from '@kvx/contract'
import { BrokenPromise, must } from '../kit/promises.ts'
import type { World } from '../kit/world.ts'
import { check, type Suite } from '../suite.ts'

async function answer(world: World, options?: unknown): Promise<Probe> {
  const asked = world.party('writer').ask('probe', options)
  return asked.catch((error: unknown) => {
    throw new BrokenPromise('probe', `probe threw: ${String(error)}`)
  })
}

function mustExplain({ available, tried, remedy }: Probe, what: string): void {
  must(
    tried.every(({ what: tried, reason }) => tried !== '' && reason !== ''),
    'tried',
    `${what}: each entry of tried must say what and why, got ${JSON.stringify(tried)}.`,
  )
  if (available) return
  must(tried.length > 0, 'tried', `${what}: it is not available, and tried is empty.`)
  must((remedy ?? '') !== '', 'remedy', `${what}: it is not available, and there is no remedy.`)
}

export const probe: Suite = {
  name: 'probe',
  checks: [
    check('with the options of the fixture it says that the engine can run', async (world) => {
      const found = await answer(world)
      mustExplain(found, 'With the options of the fixture')
      const tried = found.tried.map(({ what, reason }) => `${what}: ${reason}`).join('; ')
      must(found.available, 'probe', `The engine opens here, and probe says it cannot: ${tried}`)
    }),
    check(
      'with options that are wrong it answers, with what it tried and a remedy',
      async (world) => {
        for (const options of [{ thisIsNoOption: 1 }, 'fast', 7]) {
          const what = `With the options ${JSON.stringify(options)}`
          const found = await answer(world, options)
          mustExplain(found, what)
          must(
            !found.available,
            'probe',
            `${what}, which open must refuse, probe says that the engine can run.`,
          )
        }
      },
    ),
    check('it leaves no descriptor, thread, program or variable behind', async (world) => {
      const party = world.party('writer')
      await party.ask('warmUp')
      // What a library needs for good it may load the first time.
      await party.ask('probe')
      const before = await party.ask('resources')
      for (let i = 0; i < 3; i++) await party.ask('probe')
      const after = await party.ask('resources')
      for (const what of ['descriptors', 'threads', 'children', 'environment'] as const) {
        must(
          after[what] === before[what],
          'probe',
          `After three calls the process has ${after[what]} ${what} instead of ${before[what]}.`,
        )
      }
    }),
  ],
}
