/** Digests of registered memory are those that the contract defines. */
import { digests, type DigestJob, type Memory } from '@kvx/contract'
import { must } from '../kit/promises.ts'
import { pattern } from '../kit/pattern.ts'
import { refusal } from '../kit/world.ts'
import { check, type Suite } from '../suite.ts'

const KiB = 1024
const bytes = 256 * KiB

/** Rows of 11: region, base, pageBytes, rows, units, first unit, unitBytes, elementBytes, row, unit and element stride. */
const tokenMajor = [0, 0, 16 * KiB, 16, 4, 0, 256, 256, 1024, 256, 256]
const unitMajor = [0, 64 * KiB, 16 * KiB, 16, 4, 4, 256, 256, 256, 4096, 256]
const transposed = [0, 128 * KiB, 16 * KiB, 16, 4, 0, 256, 2, 2, 4096, 32]

const job = (tensors: number[][], runs: number[][]): DigestJob => ({
  pageTokens: 16,
  tensors: Float64Array.from(tensors.flat()),
  keys: BigUint64Array.from(tensors, (_, i) => 0x1234_5678_9abc_def0n + BigInt(i)),
  runs: Int32Array.from(runs.flat()),
})

export const digest: Suite = {
  name: 'digest',
  checks: [
    check('they are those of the contract, for every order within a page', async (world) => {
      const host = await world.host('writer', [bytes])
      await host.fill(7)
      const all = pattern(7, bytes)
      const view = (offset: number, length: number) => all.subarray(offset, offset + length)
      const memory: Memory = { address: 1n, bytes, kind: 'cpu', device: 0, view }
      for (const [what, one] of [
        ['whole pages', job([tokenMajor, unitMajor, transposed], [[0, 0, 32, 0]])],
        ['part of a page', job([tokenMajor, unitMajor], [[1, 3, 5, 40]])],
        [
          'several runs',
          job(
            [transposed],
            [
              [2, 0, 16, 0],
              [0, 5, 11, 16],
            ],
          ),
        ],
        ['no run', job([tokenMajor], [])],
        ['no tensor', job([], [[0, 0, 1, 0]])],
      ] as const) {
        const found = await host.party.ask('digest', host.engine, one)
        must(
          Buffer.compare(found, digests(one, [memory])) === 0,
          'digest',
          `The digests of ${what} are not those that digests() of @kvx/contract computes.`,
        )
      }
    }),
    check('a job that reaches outside of the memory is refused', async (world) => {
      const host = await world.host('writer', [bytes])
      const { party, engine } = host
      for (const [what, one] of [
        ['a page too far', job([tokenMajor], [[15, 0, 32, 0]])],
        ['a region that is not there', job([[1, ...tokenMajor.slice(1)]], [[0, 0, 1, 0]])],
        ['a negative page', job([tokenMajor], [[-1, 0, 1, 0]])],
      ] as const)
        await refusal(
          party.ask('digest', engine, one),
          ['ERR_KVX_PLAN_INVALID'],
          'digestRefused',
          `A digest of ${what}`,
        )
    }),
  ],
}
