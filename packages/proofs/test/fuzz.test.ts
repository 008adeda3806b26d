import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { canonical } from '../src/fuzz/canonical.ts'

const program = join(import.meta.dirname, '../dist/fuzz/main.js')

function fuzz(...args: readonly string[]): { code: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], {
    encoding: 'utf8',
    timeout: 170_000,
  })
  return { code: status, output: stdout + stderr }
}

test.each([
  ['the same frames', '1'],
  ['other frames each time', String(Math.floor(Math.random() * 2 ** 32))],
])(
  'mutated and random frames raise no exception, and those that are refused change nothing: %s',
  (_, seed) => {
    const { code, output } = fuzz('--frames', '12000', '--sockets', '800', '--seed', seed)
    expect(output).toContain('nothing found in 12000 frames')
    expect(code).toBe(0)
    // It got everywhere.
    for (const stage of ['by the codec', 'by the schema', 'hello refused', 'taken', 'compared']) {
      expect(output).toContain(stage)
    }
  },
  180_000,
)

test('a flag that is no number is told, and nothing runs', () => {
  const { code, output } = fuzz('--frames', 'many')
  expect(output).toContain('--frames must be a whole number, got many')
  expect(code).toBe(2)
})

const nothing = new Set<string>()

test('states that hold the same are the same text, in whatever order it was put in', () => {
  const a = { name: 'a', peer: { incarnation: '1' } }
  const b = { name: 'b', peer: { incarnation: '2' } }
  const one = { x: 1, map: new Map([['k', [1]], ['l', [2]]]), set: new Set([a, b]) } // prettier-ignore
  const two = { set: new Set([b, a]), map: new Map([['l', [2]], ['k', [1]]]), x: 1 } // prettier-ignore
  expect(canonical(one, nothing)).toBe(canonical(two, nothing))
})

test.each<[string, (state: State) => void]>([
  ['a number', (state) => (state.x = 2)],
  ['a value in a map', (state) => state.map.set('k', [2])],
  ['a key of a map', (state) => state.map.set('m', [])],
  ['a byte', (state) => (state.bytes[1] = 9)],
  ['one more member of a set', (state) => state.set.add({ name: 'c' })],
  ['a reference that is a copy now', (state) => (state.again = { ...state.inner })],
])('states that differ by %s are different texts', (_, change) => {
  const state = makeState()
  change(state)
  expect(canonical(state, nothing)).not.toBe(canonical(makeState(), nothing))
})

type State = ReturnType<typeof makeState>

function makeState() {
  const inner = { y: 1 }
  return {
    x: 1,
    map: new Map([['k', [1]]]),
    bytes: new Uint8Array(3),
    set: new Set([{ name: 'a' }]),
    inner,
    again: inner,
  }
}
