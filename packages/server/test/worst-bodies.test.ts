/**
 * What does the worst body that is accepted cost the event loop? Everything else that a worker does waits for so
 * long: pings, health, the streams of others.
 */
import { expect, test } from 'vitest'
import { parseFields, parseJson } from '../src/http/json.ts'

const bytes = 4 * 2 ** 20
const fill = (head: string, unit: string, tail: string, size = bytes) => {
  const count = Math.floor((size - head.length - tail.length) / Buffer.byteLength(unit))
  return head + unit.repeat(count) + tail
}
const items = (count: number, item: (i: number) => string) =>
  Array.from({ length: count }, (_, i) => item(i)).join(',')

/** Bodies at the edge of what is taken: each bound is met by some. */
const worst: Record<string, string> = {
  'one long text': fill('{"prompt":"', 'x', '"}'),
  'a text of escapes': fill('{"prompt":"', '\\u00e9', '"}'),
  'a text of quotes': fill('{"prompt":"', '\\"', '"}'),
  'a text of backslashes': fill('{"prompt":"', '\\\\', '"}'),
  'a text of characters of three bytes': fill('{"prompt":"', '語', '"}'),
  'blanks only, around little': fill('{', ' ', '"prompt":[1]}'),
  'as many token ids as there may be': `{"prompt":[${items(149_990, (i) => String(i % 150_000))}]}`,
  'as many long numbers as fit': `{"prompt":[1],"x":[${items(61_000, () => `0.${'1234567890'.repeat(6)}12`)}]}`,
  'as many lists as there may be': `{"prompt":[1],"x":[${items(74_990, () => '[]')}]}`,
  'as many texts as there may be': `{"prompt":[1],"x":[${items(149_990, () => '"abcdefg"')}]}`,
  'as many names as there may be': `{"prompt":[1],"x":{${items(4_000, (i) => `"name ${String(i)}":1`)}}}`,
  'as many fields as there may be': `{"prompt":[1],${items(4_000, (i) => `"name ${String(i)}":1`)}}`,
  'names of a kilobyte': `{"prompt":[1],"x":{${items(4_000, (i) => `"${String(i)}${'n'.repeat(1_000)}":1`)}}}`,
  'as many levels as there may be': `{"prompt":[1],"x":${'['.repeat(31)}${']'.repeat(31)}}`,
  'a room of 64 digits': `{"prompt":[1],"bootstrap_room":${'9'.repeat(64)}}`,
}

/**
 * Milliseconds for which something holds the event loop when nothing else disturbs it: the least of many tries, of
 * which as many are made as it takes to come below `limit`. What really takes longer never does.
 */
function held(work: () => unknown, limit: number): number {
  let least = Infinity
  for (let i = 0; i < 30 && least >= limit; i++) {
    const start = performance.now()
    work()
    least = Math.min(least, performance.now() - start)
  }
  return least
}

/** Work of 4 ms on the machine on which the limit was chosen: a slower or a busy one gets more time. */
const yardstick = fill('{"a":"', 'x\\n', '"}')
function limitMs(): number {
  const times = Array.from({ length: 9 }, () => {
    const start = performance.now()
    JSON.parse(yardstick)
    return performance.now() - start
  }).sort((a, b) => a - b)
  return 20 * Math.max(1, (times[4] ?? 0) / 4)
}

test.each(Object.entries(worst))('%s is taken apart within 20 ms', (_, text) => {
  expect(Buffer.byteLength(text)).toBeLessThanOrEqual(bytes)
  const limit = limitMs()
  for (const parse of [parseJson, parseFields]) {
    expect(held(() => parse(text), limit)).toBeLessThan(limit)
  }
})

test.each([
  [
    'a number of four million digits',
    `{"prompt":[1],"max_tokens":${'9'.repeat(bytes - 40)}}`,
    'number',
  ],
  ['two million items', fill('{"prompt":[1', ',1', ']}'), 'values'],
  ['a hundred thousand names', `{"x":{${items(1e5, (i) => `"n${String(i)}":1`)}}}`, 'names'],
  ['two million levels', '['.repeat(2 ** 21) + ']'.repeat(2 ** 21), 'nested'],
  ['as many levels that never end', '{"a":'.repeat(2 ** 19), 'nested'],
])('%s are refused within 20 ms', (_, text, words) => {
  const parse = () => {
    try {
      return parseJson(text)
    } catch (cause) {
      return (cause as Error).message
    }
  }
  expect(parse()).toContain(words)
  const limit = limitMs()
  expect(held(parse, limit)).toBeLessThan(limit)
})

test('a field that is given twice is refused, because two readers would choose differently', () => {
  for (const parse of [parseJson, parseFields]) {
    expect(() => parse('{"prompt":"a","prompt":"b"}')).toThrow(
      'The body has the field prompt twice.',
    )
    expect(() => parse('{"prompt":"a","\\u0070rompt":"b"}')).toThrow('prompt twice')
  }
})
