/** Which worker does each policy choose, and what does a router remember of prompts? */
import { expect, test } from 'vitest'
import { cacheAwareDefaults, Choice, policies } from '../src/router/policy.ts'
import { Prefixes, promptOf } from '../src/router/prefixes.ts'

const text = (...words: string[]) =>
  promptOf(new Map([['prompt', JSON.stringify(words.map((word) => word.repeat(50)).join(''))]]))
const nothing = promptOf(new Map())
interface Loaded {
  live: number
  readonly name: string
}
const workers = (...loads: number[]): Loaded[] =>
  loads.map((live, i) => ({ live, name: String(i) }))

function choice(policy: (typeof policies)[number], prefixes = new Prefixes()) {
  return new Choice(policy, cacheAwareDefaults, prefixes)
}

test.each(policies)('%s chooses nobody of nobody, and the only one of one', (policy) => {
  expect(choice(policy).of(workers(), nothing)).toBeUndefined()
  const [only] = workers(7)
  expect(choice(policy).of([only!], nothing)).toBe(only)
})

test('round_robin takes one after the other, whatever their load', () => {
  const three = workers(9, 0, 5)
  const one = choice('round_robin')
  const names = Array.from({ length: 6 }, () => one.of(three, nothing)?.name)
  expect(names).toEqual(['0', '1', '2', '0', '1', '2'])
})

test('random takes each of them, and power_of_two never the busiest of three', () => {
  const three = workers(9, 1, 0)
  const names = (policy: 'random' | 'power_of_two') =>
    new Set(Array.from({ length: 200 }, () => choice(policy).of(three, nothing)?.name))
  expect(names('random')).toEqual(new Set(['0', '1', '2']))
  expect(names('power_of_two')).toEqual(new Set(['1', '2']))
})

test('cache_aware takes the worker that has had the longest beginning of a prompt, and the idlest for one that nobody has had', () => {
  const prefixes = new Prefixes()
  const [a, b] = workers(1, 0) as [Loaded, Loaded]
  const one = choice('cache_aware', prefixes)
  expect(one.of([a, b], text('a', 'b', 'c'))).toBe(b)
  prefixes.add(a, text('a', 'b', 'c'))
  prefixes.add(b, text('a', 'x', 'y'))
  expect(one.of([a, b], text('a', 'b', 'c', 'd'))).toBe(a)
  expect(one.of([a, b], text('a', 'x', 'z'))).toBe(b)
  // Less than the threshold in common.
  expect(one.of([a, b], text('a', 'm', 'n', 'o', 'p'))).toBe(b)
  prefixes.forget(a)
  expect(one.of([a, b], text('a', 'b', 'c', 'd'))).toBe(b)
})

test('cache_aware goes by the load when it is too uneven', () => {
  const prefixes = new Prefixes()
  const prompt = text('a', 'b', 'c')
  const [a, b] = workers(9, 1) as [Loaded, Loaded]
  prefixes.add(a, prompt)
  expect(choice('cache_aware', prefixes).of([a, b], prompt)).toBe(a)
  a.live = 10
  expect(choice('cache_aware', prefixes).of([a, b], prompt)).toBe(b)
})

test('the beginning of a conversation is known when it goes on, and that of token ids', () => {
  const prefixes = new Prefixes()
  const worker = {}
  const turn = (content: string) => ({ role: 'user', content: content.repeat(40) })
  const chat = (...messages: object[]) =>
    promptOf(new Map([['messages', JSON.stringify(messages)]]))
  prefixes.add(worker, chat(turn('one'), turn('two')))
  const seen = prefixes.seen(worker, chat(turn('one'), turn('two'), turn('six')))
  expect(seen).toBeGreaterThan(0.5)
  expect(seen).toBeLessThan(0.7)
  expect(prefixes.seen(worker, chat(turn('other'), turn('two')))).toBe(0)
  const ids = (count: number) =>
    promptOf(new Map([['input_ids', JSON.stringify(Array.from({ length: count }, (_, i) => i))]]))
  prefixes.add(worker, ids(500))
  expect(prefixes.seen(worker, ids(1_000))).toBeCloseTo(0.5, 1)
})

test('token ids are counted, those of several prompts together, and text is judged by its length', () => {
  const tokens = (name: string, value: unknown) =>
    promptOf(new Map([[name, JSON.stringify(value)]])).tokens
  expect(tokens('prompt', [1, 2, 3])).toBe(3)
  expect(tokens('input_ids', [[1, 2], [3]])).toBe(3)
  expect(tokens('text', 'x'.repeat(398))).toBe(100)
  expect(nothing.tokens).toBe(0)
})

test('what a worker has had is bounded: the prompts used least recently are forgotten first, and of each its end', () => {
  const prefixes = new Prefixes()
  const worker = {}
  const long = (name: string) => promptOf(new Map([['prompt', name.repeat(64 * 4096)]]))
  for (const name of 'abcdefghijklmnop') prefixes.add(worker, long(name))
  expect(prefixes.seen(worker, long('a'))).toBe(1)
  prefixes.add(worker, promptOf(new Map([['prompt', 'z'.repeat(64 * 10)]])))
  expect(prefixes.seen(worker, long('a'))).toBeCloseTo(1 - 10 / 4096, 6)
  expect(prefixes.seen(worker, long('b'))).toBe(1)
})
